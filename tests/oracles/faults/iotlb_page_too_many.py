"""An invalidation of one page of a domain drops all of them: devices walk tables that they had cached."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.vtd.iommu import Iommu

ORIGINAL = Iommu.invalidate_iotlb


def replacement(self, did=None, iova=None, order=0):
    ORIGINAL(self, did, None)


BUG = Bug(
    name="iotlb-page-too-many",
    replaces="hvfuzz.machine.vtd.iommu:Iommu.invalidate_iotlb",
    replacement=replacement,
    findings=("stale/remapping/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x1000, to=0x2000, length=64)
device.dma_unmap(dom1, iova=0x2000, count=1)
""",
)
