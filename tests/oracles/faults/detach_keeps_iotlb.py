"""The IOTLB is not flushed."""

from hvfuzz.bugs import Bug


def replacement(self, bdf):
    a = self._entry(bdf)
    self.host.write64(a, 0)
    self.host.write64(a + 8, 0)
    self.host.machine.iommu.invalidate_context(bdf)


BUG = Bug(
    name="detach-keeps-iotlb",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.detach",
    replacement=replacement,
    findings=("stale/iotlb/device.deassign",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x5000, to=0x6000, length=8)
device.deassign(dom0, device=0)
""",
)
