"""A device mapping asks for a table page more than it needs, and is refused if that one is denied."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_pool import TablePool

lacks = TablePool.lacks


def replacement(self, pages):
    return lacks(self, pages + 1)


BUG = Bug(
    name="denied-one-page-too-many",
    replaces="hvfuzz.hypervisor.memory.table_pool:TablePool.lacks",
    replacement=replacement,
    findings=("recount/need/device.dma_map",),
    trigger="""\
# hvp 1
world pair
deny(dom1, request=2)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
""",
)
