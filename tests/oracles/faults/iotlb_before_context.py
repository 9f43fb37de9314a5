"""The IOTLB is flushed before the context cache: the old context entry fills it again (VT-d spec 6.5.1.1)."""

from hvfuzz.bugs import Bug


def replacement(self, bdf, domain_id):
    iommu = self.host.machine.iommu
    iommu.invalidate_iotlb(domain_id)
    iommu.invalidate_context(bdf)


BUG = Bug(
    name="iotlb-before-context",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.flush",
    replacement=replacement,
    findings=("stale/unflushed/device.deassign",),
    trigger="""\
# hvp 1
world pair
device.deassign(dom0, device=0)
""",
)
