"""A device page that is mapped again to the same frame is not flushed, though it has fewer rights.

"The translation has not changed": the rights have. A driver that makes a buffer read-only for its device, before it
checks what is in there, is still at the device's mercy (a double fetch made possible by the hypervisor).

In the trigger a page is mapped RW, then R. The device has not used it.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, RIGHTS, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT


def map_page(self, page, hfn, rights, *, foreign=False):
    """Replace the leaf; flush if the frame is another."""
    address = self.slot(page, 1)
    displaced = self.host.read64(address)
    if displaced & RIGHTS and leaf_frame(displaced, 1, page) == hfn:
        self.host.write64(address, hfn << PAGE_SHIFT | rights | (FOREIGN if foreign else 0))
        return
    if hfn < self.frames.count:
        self.frames.add_map(hfn)
    self.host.write64(address, hfn << PAGE_SHIFT | rights | (FOREIGN if foreign else 0))
    self.release(page, displaced)


BUG = Bug(
    name="c08-same-frame-not-flushed",
    title="a device keeps a right that its mapping has lost",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.map",
    replacement=map_page,
    story=__doc__,
    findings=("stale/unflushed/device.dma_map",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R)
""",
)
