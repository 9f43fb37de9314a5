"""The count of a page is dropped before its leaf: its owner may free it in between."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import leaf_frame


def replacement(self, page):
    entry, _, address = self.lookup(page)
    self.frames.drop_map(leaf_frame(entry, 1, page))
    self.host.write64(address, 0)
    self.flush(page, 1, True)
    self.trim(page, address)


BUG = Bug(
    name="uncounted-before-unmapped",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.unmap",
    replacement=replacement,
    findings=("stale/leaf/device.dma_unmap",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
device.dma_unmap(dom1, iova=0x1000, count=1)
""",
)
