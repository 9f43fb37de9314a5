"""A table page is not zeroed when taken."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState


def replacement(self):
    if not self.pages:
        return -1
    hfn = self.pages.pop()
    self.frames.assign(hfn, self.owner, FrameState.TABLE)
    self.host.observer.frame_allocated(hfn, self.owner, FrameState.TABLE)
    return hfn


BUG = Bug(
    name="take-not-zeroed",
    replaces="hvfuzz.hypervisor.memory.table_pool:TablePool.take",
    replacement=replacement,
    findings=("host_memory/fault/boot",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
""",
)
