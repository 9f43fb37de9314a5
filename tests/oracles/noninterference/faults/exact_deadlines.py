"""Deadlines are not rounded to ticks: the timer's number of expiries is a clock that nothing meters."""

from hvfuzz.bugs import Bug


def deadline(now, cycles):
    """When a time of `cycles` is over, to the cycle."""
    return now + cycles


BUG = Bug(
    name="exact-deadlines",
    title="deadlines of timers are exact",
    replaces="hvfuzz.hypervisor.vcpu.ticks:deadline",
    replacement=deadline,
    findings=("noninterference/result/mmio_read",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=TIMER, register=TIMER_DELAY, size=8, value=0x4e20)
sched.yield(dom1)
mmio_read(dom1, device=TIMER, register=TIMER_EXPIRED, size=8)
""",
)
