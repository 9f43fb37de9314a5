"""The same, X is lost."""

import struct

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import LARGE


def replacement(self, gfn):
    entry, _, address = self.lookup(gfn)
    table = self.pool.take()
    if table < 0:
        return False
    first = entry & ~LARGE
    self.host.write(table << 12, struct.pack("<512Q", *range(first, first + 512 * 4096, 4096)))
    self.host.write64(address, table << 12 | 3)
    self.flush()
    return True


BUG = Bug(
    name="split-table-no-exec",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.split",
    replacement=replacement,
    findings=("ownership/entry/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.decrease(dom1, first=0x200, count=1)
execute(dom1, gva=DIRECT+0x201000)
""",
)
