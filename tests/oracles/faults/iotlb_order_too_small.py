"""A range of device pages is flushed by one invalidation whose address mask covers half of it."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    dma = hv.domains[self.domain].dma
    entry, _, address = dma.lookup(self.page)
    hv.host.write64(address, 0)
    if self.page % 4 == 0:
        hv.machine.iommu.invalidate_iotlb(dma.domain_id, self.page << 12, 1)
    hv.frames.drop_map(entry >> 12 & 0xFFFFF)
    dma.trim(self.page, address)


BUG = Bug(
    name="iotlb-order-too-small",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_map:UnmapDma.apply",
    replacement=replacement,
    findings=("stale/unflushed/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x4000, gfn=0x40, count=4, rights=R|W)
device.dma_unmap(dom1, iova=0x4000, count=4)
""",
)
