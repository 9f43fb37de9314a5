"""The new page begins with a word of the hypervisor's (written through its own mapping, unannounced)."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import RIGHTS


def replacement(self, hv):
    hv.allocator.take(self.hfn, self.domain, FrameState.OWNED)
    hv.domains[self.domain].stage2.map(self.gfn, self.hfn, RIGHTS)
    hv.machine.memory.store64(self.hfn << 12, 0xFFFF800000000000 + hv.frames.base)


BUG = Bug(
    name="populate-leaves-pointer",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:PopulatePage.apply",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
load(dom1, gva=DIRECT+0x200000, size=8)
""",
)
