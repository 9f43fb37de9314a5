"""A device page that is mapped again, with more rights, is absent for a moment: the device is blocked."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.dma import DmaMap

ORIGINAL = DmaMap.map


def replacement(self, page, hfn, rights, *, foreign=False):
    entry, _, _ = self.lookup(page)
    if entry & 3:
        self.unmap(page)
    ORIGINAL(self, page, hfn, rights, foreign=foreign)


BUG = Bug(
    name="dma-map-by-unmapping-first",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.map",
    replacement=replacement,
    findings=("ownership/moment/device.dma_map",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
""",
)
