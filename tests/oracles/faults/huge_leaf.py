"""A leaf of 1 GiB."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import RIGHTS


def replacement(self, hv):
    s2 = hv.domains[self.domain].stage2
    hv.allocator.take(self.hfn, self.domain, FrameState.OWNED)
    s2.map(self.gfn, self.hfn, RIGHTS)
    hv.host.write64(s2.slot(0x40000, 3), 0x40000000 | 0xB7)


BUG = Bug(
    name="huge-leaf",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:PopulatePage.apply",
    replacement=replacement,
    findings=("ownership/nowhere/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
memory.populate(dom1, first=0x201, count=1, order=0)
""",
)
