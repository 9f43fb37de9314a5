"""Time goes back."""

from hvfuzz.bugs import Bug


def replacement(self):
    self.clock.cycles -= min(self.clock.cycles, 16384)


BUG = Bug(
    name="clock-goes-back",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.end_slice",
    replacement=replacement,
    findings=("specification/time/sched.yield",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
time.clock_read(dom1)
sched.yield(dom1)
time.clock_read(dom1)
""",
)
