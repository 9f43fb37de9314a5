"""A periodic timer counts its period to the cycle: TIMER_EXPIRED is a clock that nothing counts."""

from hvfuzz.bugs import Bug


def replacement(self):
    times = 1 + (self.clock.cycles - self.deadline) // (self.period or 1 << 64)
    self.expired += times
    self.deadline += times * self.period


BUG = Bug(
    name="timer-period-fine",
    replaces="hvfuzz.hypervisor.devices.timer:Timer.expire",
    replacement=replacement,
    findings=("exits/model/mmio_read",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=TIMER, register=TIMER_PERIOD, size=8, value=0x1000)
mmio_write(dom1, device=TIMER, register=TIMER_DELAY, size=8, value=1)
sched.yield(dom0)
sched.yield(dom0)
mmio_read(dom1, device=TIMER, register=TIMER_EXPIRED, size=8)
""",
)
