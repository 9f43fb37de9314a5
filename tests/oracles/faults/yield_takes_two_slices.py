"""A vCPU that yields gives up the next time slice, too."""

from hvfuzz.abi.limits import TIME_SLICE
from hvfuzz.bugs import Bug


def replacement(self):
    self.clock.cycles += 2 * TIME_SLICE


BUG = Bug(
    name="yield-takes-two-slices",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.end_slice",
    replacement=replacement,
    findings=("specification/time/sched.yield",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
