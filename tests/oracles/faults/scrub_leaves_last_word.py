"""A freed frame keeps its last word: the loop that zeroes it ends one word early."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE


def replacement(self, hfn, frames):
    for frame in range(hfn, hfn + frames):
        self.host.write(frame << PAGE_SHIFT, bytes(PAGE_SIZE - 8))


BUG = Bug(
    name="scrub-leaves-last-word",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.scrub",
    replacement=replacement,
    findings=("host_memory/scrub/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x30, count=1)
""",
)
