"""A guest maps a page of its own over memory that firmware keeps for its device (XSA-378)."""

from hvfuzz.bugs import Bug


def replacement(self, page, count=1):
    return False


BUG = Bug(
    name="reserved-remapped",
    replaces="hvfuzz.hypervisor.core.hypervisor:Hypervisor.is_reserved",
    replacement=replacement,
    findings=("ownership/reserved/device.dma_map",),
    trigger="""\
# hvp 1
world reserved
device.dma_map(dom1, iova=0xffe000, gfn=0x40, count=1, rights=R|W)
""",
)
