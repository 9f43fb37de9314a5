"""Unmapping a device page takes away its right to write only."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import WRITE


def apply(self, hv):
    """Leave a page mapped that can be written, for reading."""
    dma = hv.domains[self.domain].dma
    entry, _, address = dma.lookup(self.page)
    if entry & WRITE:
        dma.host.write64(address, entry & ~WRITE)
    else:
        dma.unmap(self.page)


BUG = Bug(
    name="right-left-in-device-table",
    title="an unmapped device page can still be read",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_map:UnmapDma.apply",
    replacement=apply,
    findings=("laws/undo/cpuid",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0)
""",
)
