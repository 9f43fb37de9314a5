"""Only the first port of the list counts."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import scheduler


def replacement(self, vcpu, ports_, timeout):
    self.polls[vcpu.id] = scheduler.Poll(ports_[:1], self.clock.cycles + timeout)
    vcpu.runnable = 2


BUG = Bug(
    name="poll-first-port-only",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.poll",
    replacement=replacement,
    findings=("specification/vcpu/event.send",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=dom2)
event.alloc(dom1, remote=dom2)
event.bind(dom2, remote=dom1, port=1)
sched.poll(dom1, ports=[0, 1], count=2, timeout=0x100000)
event.send(dom2, port=0)
""",
)
