"""XSA-78 / CVE-2013-6375: the IOTLB is not flushed when a DMA mapping is removed.

Cause: when the VT-d code cleared an entry, it passed the inverted "was present" flag to its flush function. The flush
assumed that nothing was cached and did nothing, so the device could still access the page.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.memory.dma import DmaMap
from hvfuzz.hypervisor.memory.table_tree import RIGHTS, leaf_frame


def release(self: DmaMap, page: int, displaced: int) -> None:
    """Flush with the inverted "was present" flag, then drop the reference."""
    was_present = displaced & RIGHTS != 0
    self.flush(page, 1, not was_present)
    if was_present:
        self.frames.drop_map(leaf_frame(displaced, 1, page))


BUG = Bug(
    name="xsa-78",
    advisory="XSA-78, CVE-2013-6375",
    title="unmapping a device page does not flush it from the IOTLB",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.release",
    replacement=release,
    findings=("stale/iotlb/device.dma_unmap",),
    difficulty=2,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0, to=0x1000, length=8)
device.dma_unmap(dom1, iova=0, count=1)
""",
)
