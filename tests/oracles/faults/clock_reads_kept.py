"""Each read of the clock leaves something in a list of the allocator's, for ever."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls import time

ORIGINAL = time.CountRead.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    hv.allocator.blocks.append(0)


BUG = Bug(
    name="clock-reads-kept",
    replaces="hvfuzz.hypervisor.hypercalls.time:CountRead.apply",
    replacement=replacement,
    findings=("work/growth/time.clock_read",),
    trigger="""\
# hvp 1
world pair
time.clock_read(dom1)
""",
)
