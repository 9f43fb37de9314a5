"""A large leaf that goes as a whole is thought to need a table for its split."""

from hvfuzz.bugs import Bug


def replacement(self, first, count, rights=-1):
    return [first]


BUG = Bug(
    name="whole-blocks-thought-cut",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.blocks_cut",
    replacement=replacement,
    findings=("recount/need/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
device.dma_map(dom1, iova=0x0, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x80000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0xc0000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x100000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x140000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x180000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x1c0000000, gfn=0x40, count=1, rights=R)
memory.decrease(dom1, first=0x200, count=512)
""",
)
