"""A poll ends to the cycle: whether it has ended is a clock that nothing counts."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import scheduler


def replacement(self, vcpu, ports, timeout):
    self.polls[vcpu.id] = scheduler.Poll(ports, self.clock.cycles + timeout)
    vcpu.runnable = 2


BUG = Bug(
    name="poll-deadline-fine",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.poll",
    replacement=replacement,
    findings=("specification/change/sched.kick",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
sched.poll(dom1, ports=[r0], count=1, timeout=1)
sched.kick(dom1.1, vcpu=0)
""",
)
