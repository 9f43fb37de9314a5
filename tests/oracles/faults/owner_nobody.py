"""The frame is a domain's that does not exist."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import RIGHTS


def replacement(self, hv):
    hv.allocator.take(self.hfn, 77, FrameState.OWNED)
    hv.domains[self.domain].stage2.map(self.gfn, self.hfn, RIGHTS)


BUG = Bug(
    name="owner-nobody",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:PopulatePage.apply",
    replacement=replacement,
    findings=("ownership/foreign/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
load(dom1, gva=DIRECT+0x200000, size=8)
memory.decrease(dom1, first=0x200, count=1)
""",
)
