"""A device mapping that is replaced gets the new frame first, and its own rights only by a second write.

Between the two writes the new frame has the rights of the old mapping. A device of the guest that writes then changes
a page that the guest itself may only read: where a hypervisor keeps such pages from guests (code, a page shared for
reading), their write protection falls.

In the trigger a page that is mapped RW is replaced by one that its domain may only read, mapped R.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, RIGHTS
from hvfuzz.machine.addresses import PAGE_SHIFT


def map_page(self, page, hfn, rights, *, foreign=False):
    """Set the frame, then the rights."""
    address = self.slot(page, 1)
    displaced = self.host.read64(address)
    if hfn < self.frames.count:
        self.frames.add_map(hfn)
    entry = hfn << PAGE_SHIFT | (FOREIGN if foreign else 0)
    if displaced & RIGHTS:
        self.host.write64(address, entry | displaced & RIGHTS)
    self.host.write64(address, entry | rights)
    self.release(page, displaced)


BUG = Bug(
    name="c03-dma-address-before-rights",
    title="for a moment a new frame has the rights of the device mapping that it replaces",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.map",
    replacement=map_page,
    story=__doc__,
    findings=("ownership/moment/device.dma_map",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
memory.protect(dom1, first=0x41, count=1, rights=R)
device.dma_map(dom1, iova=0x1000, gfn=0x41, count=1, rights=R)
""",
)
