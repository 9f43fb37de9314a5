"""A table of the IOMMU moves to another page, with the same entries; the old page is reused without a flush."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.dma import DmaMap
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE

ORIGINAL = DmaMap.map


def replacement(self, page, hfn, rights, *, foreign=False):
    ORIGINAL(self, page, hfn, rights, foreign=foreign)
    parent = self.slot(page, 2)
    old = self.host.read64(parent) >> PAGE_SHIFT
    new = self.pool.take()
    self.host.write(new << PAGE_SHIFT, self.host.read(old << PAGE_SHIFT, PAGE_SIZE))
    self.host.write64(parent, new << PAGE_SHIFT | self.table_rights)
    self.pool.put(old)


BUG = Bug(
    name="dma-table-moved-unflushed",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.map",
    replacement=replacement,
    findings=("stale/unflushed/device.dma_map",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
""",
)
