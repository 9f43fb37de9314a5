"""Every mapping is thought to need tables of all levels: NO_POOL although none is missing."""

from hvfuzz.bugs import Bug


def replacement(self, pages, level=1):
    return 3


BUG = Bug(
    name="tables-overcounted",
    replaces="hvfuzz.hypervisor.memory.table_tree:TableTree.tables_needed",
    replacement=replacement,
    findings=("specification/pool/boot",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x0, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x80000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0xc0000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x100000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x140000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x180000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x1c0000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x200000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R)
""",
)
