"""A large page is replaced by an empty table, which gets its leaves one by one."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import ENTRIES, LARGE
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE


def replacement(self, gfn):
    entry, _, address = self.lookup(gfn)
    table = self.pool.take()
    if table < 0:
        return False
    self.host.write64(address, table << PAGE_SHIFT | self.table_rights)
    for index in range(ENTRIES):
        self.host.write64((table << PAGE_SHIFT) + 8 * index, (entry & ~LARGE) + index * PAGE_SIZE)
    self.flush()
    return True


BUG = Bug(
    name="split-linked-before-filled",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.split",
    replacement=replacement,
    findings=("ownership/moment/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.decrease(dom1, first=0x205, count=1)
""",
)
