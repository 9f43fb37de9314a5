"""The clock is rounded by clearing one bit: `cycles & ~GRAIN` for `cycles & ~(GRAIN - 1)`.

The low bits, which tell how long the hypervisor and the other domains work, are in each reading; only bit 12 is
missing. A guest measures the other domains' hypercalls to the cycle.

In the trigger dom1 reads the clock before and after a call of dom2, by the call and by its counter.
"""

from hvfuzz.abi.limits import CLOCK_GRAIN
from hvfuzz.bugs import Bug


def quantised(cycles):
    """Round the clock."""
    return cycles & ~CLOCK_GRAIN


BUG = Bug(
    name="c10-grain-mask",
    title="the clock that guests read is exact: the wrong mask rounds it",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:quantised",
    replacement=quantised,
    findings=("specification/result/time.clock_read",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
time.clock_read(dom1)
memory.populate(dom2, first=0x100, count=4, order=0)
rdtsc(dom1)
""",
)
