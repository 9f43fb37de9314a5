"""The tables on the way get the rights of the first leaf in them: later writable pages are not."""

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
    name="dma-tables-readonly",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.map",
    replacement=replacement,
    findings=("ownership/entry/device.dma_map",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x6000, gfn=0x41, count=1, rights=R|W)
""",
)
