"""Another frame is freed: one beyond."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import allocator

ORIGINAL = allocator.Allocator.free_page


def replacement(self, hfn):
    ORIGINAL(self, hfn + 1)


BUG = Bug(
    name="frees-wild",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.free_page",
    replacement=replacement,
    findings=("stale/leaf/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x60, count=1)
load(dom1, gva=DIRECT+0x61000, size=8)
memory.decrease(dom1, first=0x61, count=1)
""",
)
