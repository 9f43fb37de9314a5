"""A timer expires to the cycle: a clock as fine as the guest likes."""

from hvfuzz.bugs import Bug


def replacement(now, cycles):
    return now + cycles


BUG = Bug(
    name="timer-too-fine",
    replaces="hvfuzz.hypervisor.vcpu.ticks:deadline",
    replacement=replacement,
    findings=("exits/model/mmio_read",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=TIMER, register=TIMER_DELAY, size=8, value=1)
mmio_read(dom1, device=TIMER, register=TIMER_EXPIRED, size=8)
""",
)
