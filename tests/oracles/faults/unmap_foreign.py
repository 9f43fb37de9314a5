"""Device pages of grants can be unmapped."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.device import dma_map
from hvfuzz.hypervisor.memory.table_tree import RIGHTS


def replacement(self, hv, caller, vcpu):
    if not dma_map.iova_range_ok(self.iova, self.count):
        return dma_map.BAD_IOVA
    first = self.iova >> 12
    for _, e, _ in caller.dma.leaves(first, self.count):
        if not e & RIGHTS:
            return Refused(Status.NOT_PRESENT, "")
    return Effect(tuple(dma_map.UnmapDma(caller.id, p) for p in range(first, first + self.count)), self.count)


BUG = Bug(
    name="unmap-foreign",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_map:DmaUnmap.check",
    replacement=replacement,
    findings=("recount/pins/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R|W)
grant.map(dom1, granter=dom2, ref=r0, gfn=0, iova=0x5000, flags=DEVICE)
device.dma_unmap(dom1, iova=0x5000, count=1)
""",
)
