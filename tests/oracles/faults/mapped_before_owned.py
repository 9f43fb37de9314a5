"""A free frame is mapped, and only then gets its owner."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import ONE_MAP, FrameState
from hvfuzz.hypervisor.memory.stage2 import WRITE_BACK
from hvfuzz.hypervisor.memory.table_tree import RIGHTS
from hvfuzz.machine.addresses import PAGE_SHIFT


def replacement(self, hv):
    stage2 = hv.domains[self.domain].stage2
    hv.host.write64(stage2.slot(self.gfn, 1), self.hfn << PAGE_SHIFT | WRITE_BACK | RIGHTS)
    hv.allocator.take(self.hfn, self.domain, FrameState.OWNED)
    hv.host.write64(hv.frames.address(self.hfn), hv.frames.word(self.hfn) + ONE_MAP)


BUG = Bug(
    name="mapped-before-owned",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:PopulatePage.apply",
    replacement=replacement,
    findings=("ownership/moment/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
""",
)
