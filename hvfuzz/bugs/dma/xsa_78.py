"""XSA-78 / CVE-2013-6375: the IOTLB flush is told that the old entry was not present.

Cause: the VT-d code passed the inverted "was present" to its flush function when it cleared an entry, so the flush
believed that there was nothing cached, and did nothing. The device went on to reach the page.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.memory.dma import DmaMap
from hvfuzz.hypervisor.memory.table_tree import RIGHTS, leaf_frame


def release(self: DmaMap, page: int, displaced: int) -> None:
    """Flush with the wrong answer to "was there an entry?", then drop the reference."""
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
