"""All heap pages have one secret word, so an overflow from one into the next one is not seen."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.allocator import Allocator

ORIGINAL = Allocator.heap_canary


def replacement(self, number):
    return ORIGINAL(self, 0)


BUG = Bug(
    name="boot-one-heap-secret",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.heap_canary",
    replacement=replacement,
    findings=("host_memory/header/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
