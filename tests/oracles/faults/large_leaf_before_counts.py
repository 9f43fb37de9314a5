"""A large page can be reached before its 512 frames are counted."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.stage2 import WRITE_BACK
from hvfuzz.hypervisor.memory.table_tree import BLOCK_LEVEL, FOREIGN, LARGE
from hvfuzz.machine.addresses import PAGE_SHIFT


def replacement(self, gfn, hfn, rights, *, block=False, foreign=False):
    address = self.slot(gfn, BLOCK_LEVEL if block else 1)
    entry = hfn << PAGE_SHIFT | WRITE_BACK | rights | (LARGE if block else 0) | (FOREIGN if foreign else 0)
    self.host.write64(address, entry)
    if block:
        self.frames.add_block_map(hfn)
    else:
        self.frames.add_map(hfn)


BUG = Bug(
    name="large-leaf-before-counts",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.map",
    replacement=replacement,
    findings=("recount/uncounted/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
""",
)
