"""The IOTLB is told a page number where it expects an address.

`iommu_flush(did, page)` for `page << PAGE_SHIFT`: the hardware drops the translation of some other page (the first one,
for all small numbers), and keeps the one that was unmapped. The device writes to a frame that its domain has given up.

In the trigger the frame has gone to dom2 when dom1's engine writes to it.
"""

from hvfuzz.bugs import Bug


def flush(self, page, count, was_present):
    """Drop cached translations, by number."""
    if not was_present:
        return
    iommu = self.host.machine.iommu
    for cached in range(page, page + count):
        iommu.invalidate_iotlb(self.domain_id, cached)


BUG = Bug(
    name="c08-iotlb-by-page-number",
    title="unmapped device pages stay in the IOTLB: a page number is passed as an address",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.flush",
    replacement=flush,
    story=__doc__,
    findings=("stale/iotlb/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40000, size=8, value=0x666)
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x1000, to=0x2000, length=8)
device.dma_unmap(dom1, iova=0x2000, count=1)
memory.decrease(dom1, first=0x41, count=1)
memory.populate(dom2, first=0x100, count=1, order=0)
mmio_write(dom1, device=0, register=CONTROL, size=8, value=1)
load(dom2, gva=DIRECT+0x100000, size=8)
""",
)
