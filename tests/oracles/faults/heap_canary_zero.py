"""Heap pages have no secret."""

from hvfuzz.bugs import Bug


def replacement(self, number):
    return 0


BUG = Bug(
    name="heap-canary-zero",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.heap_canary",
    replacement=replacement,
    findings=("host_memory/header/boot",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=dom2)
""",
)
