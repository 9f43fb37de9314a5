"""The IOMMU tables above the leaf lack the right to write, and a device writes."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import dma

ORIGINAL = dma.DmaMap.map


def replacement(self, page, hfn, rights, *, foreign=False):
    self.__class__.table_rights = rights
    try:
        ORIGINAL(self, page, hfn, rights, foreign=foreign)
    finally:
        self.__class__.table_rights = 3


BUG = Bug(
    name="tables-readonly-used",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.map",
    replacement=replacement,
    findings=("ownership/entry/device.dma_map",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x6000, gfn=0x41, count=1, rights=R|W)
device.dma_submit(dom1, device=0, from=0x5000, to=0x6000, length=8)
""",
)
