"""A poll ends one tick late, which only the result of `sched.kick` tells."""

from hvfuzz.abi.limits import CLOCK_TICK
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.scheduler import Scheduler

ORIGINAL = Scheduler.poll


def replacement(self, vcpu, ports, timeout):
    ORIGINAL(self, vcpu, ports, timeout + CLOCK_TICK)


BUG = Bug(
    name="poll-ends-late",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.poll",
    replacement=replacement,
    findings=("specification/change/sched.kick",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
sched.poll(dom1, ports=[r0], count=1, timeout=1)
sched.yield(dom2)
sched.kick(dom1.1, vcpu=0)
""",
)
