"""The pool does not ask whether a request is denied, and hands out what it has."""

from hvfuzz.bugs import Bug


def replacement(self, pages):
    return pages > len(self.pages)


BUG = Bug(
    name="denied-tables-taken",
    replaces="hvfuzz.hypervisor.memory.table_pool:TablePool.lacks",
    replacement=replacement,
    findings=("recount/denied/device.dma_map",),
    trigger="""\
# hvp 1
world pair
deny(dom1, request=1)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
""",
)
