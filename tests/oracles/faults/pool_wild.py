"""The pool gets a number that is no frame."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_pool import POISON


def replacement(self, hfn):
    self.host.fill(hfn, POISON)
    self.frames.assign(hfn, self.owner, FrameState.POOL)
    self.pages.append(-3)
    self.host.observer.frame_freed(hfn)


BUG = Bug(
    name="pool-wild",
    replaces="hvfuzz.hypervisor.memory.table_pool:TablePool.put",
    replacement=replacement,
    findings=("recount/pool/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
device.dma_unmap(dom1, iova=0x40000000, count=1)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
""",
)
