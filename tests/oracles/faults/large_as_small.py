"""A block is mapped by small leaves (superpages are lost)."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import RIGHTS


def replacement(self, hv):
    hv.allocator.take_block(self.hfn, self.domain, FrameState.OWNED)
    s2 = hv.domains[self.domain].stage2
    for i in range(512):
        s2.map(self.gfn + i, self.hfn + i, RIGHTS)


BUG = Bug(
    name="large-as-small",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:PopulateBlock.apply",
    replacement=replacement,
    findings=("recount/size/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
""",
)
