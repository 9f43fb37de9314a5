"""The timeout is 32 bits wide."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import scheduler


def replacement(self, vcpu, ports_, timeout):
    self.polls[vcpu.id] = scheduler.Poll(ports_, self.clock.cycles + (timeout & 0xFFFFFFFF))
    vcpu.runnable = 2


BUG = Bug(
    name="timeout-truncated",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.poll",
    replacement=replacement,
    findings=("specification/change/sched.yield",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
sched.poll(dom1, ports=[r0], count=1, timeout=0x100000000)
sched.yield(dom2)
""",
)
