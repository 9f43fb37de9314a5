"""XSA-100 / CVE-2014-4021: hypervisor pages are freed without being scrubbed.

Cause: pages that the hypervisor had used for its own data returned to the heap unscrubbed, and the next domain that
received one could read that data.

Simplified: the only heap pages whose allocation and release a guest controls here are the buckets of event ports. Each
contains a secret word that the oracle looks for.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.memory.allocator import Allocator


def free_heap_page(self: Allocator, hfn: int) -> None:
    """Free the page without scrubbing it."""
    self._release(hfn, 1)


BUG = Bug(
    name="xsa-100",
    advisory="XSA-100, CVE-2014-4021",
    title="a hypervisor page is freed without scrubbing and its contents reach a guest",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.free_heap_page",
    replacement=free_heap_page,
    findings=(
        "secrets/canary/memory.populate",
        "host_memory/scrub/event.close",
        "host_memory/fresh/memory.populate",
        "contents/free/event.close",
    ),
    difficulty=2,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=2)
event.close(dom1, port=r0)
memory.populate(dom1, first=0x400, count=1, order=0)
""",
)
