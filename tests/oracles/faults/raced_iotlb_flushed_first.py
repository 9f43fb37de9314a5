"""A device page is flushed before its entry is cleared: a transfer in between caches it again.

In the trigger the engine starts again by itself, just before the page that it reads is unmapped.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import RIGHTS, leaf_frame


def unmap(self, page):
    entry, _, address = self.lookup(page)
    self.flush(page, 1, entry & RIGHTS != 0)
    self.host.write64(address, 0)
    hfn = leaf_frame(entry, 1, page)
    if hfn < self.frames.count:
        self.frames.drop_map(hfn)
    self.trim(page, address)


BUG = Bug(
    name="raced-iotlb-flushed-first",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.unmap",
    replacement=unmap,
    findings=("stale/iotlb/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0, to=0x1000, length=64)
race before write 0: dma(dom1, device=0)
device.dma_unmap(dom1, iova=0, count=1)
""",
)
