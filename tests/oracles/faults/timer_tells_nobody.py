"""A timer expires, and its domain does not hear of it."""

from hvfuzz.bugs import Bug


def replacement(hv, timer):
    return None


BUG = Bug(
    name="timer-tells-nobody",
    replaces="hvfuzz.hypervisor.devices.timer:notify",
    replacement=replacement,
    findings=("specification/status/sched.block",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=dom2)
mmio_write(dom1, device=TIMER, register=TIMER_DELAY, size=8, value=1)
sched.yield(dom0)
sched.block(dom1)
""",
)
