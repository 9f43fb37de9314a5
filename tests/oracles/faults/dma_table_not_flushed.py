"""A table page of the IOMMU goes back to its pool without a flush of what leads to it."""

from hvfuzz.bugs import Bug


def replacement(self, page):
    pass


BUG = Bug(
    name="dma-table-not-flushed",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.flush_tables",
    replacement=replacement,
    findings=("stale/unflushed/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R|W)
device.dma_unmap(dom1, iova=0x40000000, count=1)
""",
)
