"""The domain number is taken for the domain id."""

from hvfuzz.bugs import Bug


def replacement(self, page, count, was_present):
    if was_present:
        for p in range(page, page + count):
            self.host.machine.iommu.invalidate_iotlb(self.domain_id - 1, p << 12)


BUG = Bug(
    name="iotlb-other-did",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.flush",
    replacement=replacement,
    findings=("stale/iotlb/device.dma_map",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x5000, to=0x6000, length=8)
device.dma_map(dom1, iova=0x5000, gfn=0x42, count=1, rights=R|W)
""",
)
