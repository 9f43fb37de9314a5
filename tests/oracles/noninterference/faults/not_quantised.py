"""The clock that guests read is not rounded at all."""

from hvfuzz.bugs import Bug


def quantised(cycles):
    """Leave the clock as it is."""
    return cycles


BUG = Bug(
    name="not-quantised",
    title="the clock is exact",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:quantised",
    replacement=quantised,
    findings=("noninterference/result/time.clock_read",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
time.clock_read(dom1)
""",
)
