"""A device without cached translations is taken away without a flush: its context entry may still be cached."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.dma import ContextTables

flush = ContextTables.flush


def replacement(self, bdf, domain_id):
    if any(did == domain_id for did, _ in self.host.machine.iommu.iotlb):
        flush(self, bdf, domain_id)


BUG = Bug(
    name="context-kept-without-translations",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.flush",
    replacement=replacement,
    findings=("stale/context/device.deassign",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R|W)
device.dma_submit(dom1, device=0, from=0x40000000, to=0x40000000, length=8)
evict(dom1, cache=IOTLB, entry=0)
device.deassign(dom0, device=0)
""",
)
