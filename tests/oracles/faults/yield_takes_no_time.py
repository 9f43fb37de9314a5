"""A vCPU that yields gives up nothing."""

from hvfuzz.bugs import Bug


def replacement(self):
    """No time passes."""


BUG = Bug(
    name="yield-takes-no-time",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.end_slice",
    replacement=replacement,
    findings=("specification/time/sched.yield",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
