"""The context cache is flushed for another function of the device."""

from hvfuzz.bugs import Bug


def replacement(self, bdf, domain_id):
    iommu = self.host.machine.iommu
    iommu.invalidate_context(bdf ^ 1)
    iommu.invalidate_iotlb(domain_id)


BUG = Bug(
    name="context-of-another-flushed",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.flush",
    replacement=replacement,
    findings=("stale/unflushed/device.deassign",),
    trigger="""\
# hvp 1
world pair
device.deassign(dom0, device=0)
""",
)
