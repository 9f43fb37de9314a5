"""The entry that links the new table takes the rights of a read-only page: the guest loses write access to 2 MiB."""

import struct

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import LARGE


def replacement(self, gfn):
    entry, _, address = self.lookup(gfn)
    table = self.pool.take()
    if table < 0:
        return False
    first = entry & ~LARGE
    leaves = struct.pack("<512Q", *range(first, first + 512 * 4096, 4096))
    self.host.write(table << 12, leaves)
    self.host.write64(address, table << 12 | 1)
    self.flush()
    return True


BUG = Bug(
    name="split-table-readonly",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.split",
    replacement=replacement,
    findings=("ownership/entry/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.decrease(dom1, first=0x200, count=1)
store(dom1, gva=DIRECT+0x201000, size=8, value=1)
""",
)
