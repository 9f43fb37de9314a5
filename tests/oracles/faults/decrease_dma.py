"""Device mappings do not count."""

from hvfuzz.bugs import Bug


def replacement(word):
    return word >> 32 != 0


BUG = Bug(
    name="decrease-dma",
    replaces="hvfuzz.hypervisor.memory.page_checks:is_in_use",
    replacement=replacement,
    findings=("stale/leaf/memory.decrease",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=1, rights=R|W)
memory.decrease(dom1, first=0x40, count=1)
""",
)
