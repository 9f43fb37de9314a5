"""A table page goes back to the pool as it is."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState


def replacement(self, hfn):
    self.frames.assign(hfn, self.owner, FrameState.POOL)
    self.pages.append(hfn)
    self.host.observer.frame_freed(hfn)


BUG = Bug(
    name="no-poison",
    replaces="hvfuzz.hypervisor.memory.table_pool:TablePool.put",
    replacement=replacement,
    findings=("host_memory/poison/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
device.dma_unmap(dom1, iova=0x40000000, count=1)
device.dma_map(dom1, iova=0x80000000, gfn=0x40, count=1, rights=R)
""",
)
