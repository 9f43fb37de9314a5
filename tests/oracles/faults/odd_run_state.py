"""The run state gets a value that there is not."""

from hvfuzz.bugs import Bug


def replacement(self, vcpu):
    vcpu.runnable = 7


BUG = Bug(
    name="odd-run-state",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.block",
    replacement=replacement,
    findings=("specification/vcpu/sched.block",),
    trigger="""\
# hvp 1
world pair
sched.block(dom1)
""",
)
