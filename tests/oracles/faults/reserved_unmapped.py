"""A guest unmaps the memory that firmware keeps for its device: only the first page is looked at."""

from hvfuzz.bugs import Bug


def replacement(self, page, count=1):
    return any(page in region for region in self.reserved.values())


BUG = Bug(
    name="reserved-unmapped",
    replaces="hvfuzz.hypervisor.core.hypervisor:Hypervisor.is_reserved",
    replacement=replacement,
    findings=("ownership/reserved/device.dma_unmap",),
    trigger="""\
# hvp 1
world reserved
device.dma_map(dom1, iova=0xffd000, gfn=0x40, count=1, rights=R|W)
device.dma_unmap(dom1, iova=0xffd000, count=2)
""",
)
