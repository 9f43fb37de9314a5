"""The event of a timer comes in on the port of that number of the next domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.ipc import event_channels


def replacement(hv, timer):
    other = (timer.domain + 1) % len(hv.domains)
    if event_channels.lookup(hv.domains[other], timer.port) is not None:
        event_channels.Deliver(other, timer.port).apply(hv)


BUG = Bug(
    name="timer-tells-another",
    replaces="hvfuzz.hypervisor.devices.timer:notify",
    replacement=replacement,
    findings=("specification/port/sched.yield",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom2, remote=dom1)
mmio_write(dom1, device=TIMER, register=TIMER_DELAY, size=8, value=1)
sched.yield(dom0)
sched.yield(dom0)
""",
)
