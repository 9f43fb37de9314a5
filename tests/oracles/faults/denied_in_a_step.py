"""`event.alloc` asks for the page of a bucket in a step, although its check has only looked whether one is free."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug


def replacement(self, hv):
    page = hv.allocator.alloc_heap_page()
    if page < 0:
        raise HostBug("no free frame in a checked allocation")
    self._replace(page=page)


BUG = Bug(
    name="denied-in-a-step",
    replaces="hvfuzz.hypervisor.hypercalls.event:AllocateBucket.apply",
    replacement=replacement,
    findings=("host_memory/exception:HostBug/event.alloc",),
    trigger="""\
# hvp 1
world pair
deny(dom1, request=1)
event.alloc(dom1, remote=dom2)
""",
)
