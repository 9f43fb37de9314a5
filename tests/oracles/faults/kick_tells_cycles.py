"""Whether a kick finds a vCPU polling is decided by the cycle: it tells how long other domains have run."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls import sched

ORIGINAL = sched.Kick.check


def replacement(self, hv, caller, vcpu):
    effect = ORIGINAL(self, hv, caller, vcpu)
    poll = hv.scheduler.polls.get(caller.vcpus[self.vcpu].id)
    soon = poll is not None and poll.deadline - 0x3000 <= hv.machine.clock.cycles
    return Effect(effect.steps) if soon else effect


BUG = Bug(
    name="kick-tells-cycles",
    replaces="hvfuzz.hypervisor.hypercalls.sched:Kick.check",
    replacement=replacement,
    findings=("specification/result/sched.kick",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
sched.poll(dom1, ports=[r0], count=1, timeout=1)
sched.kick(dom1.1, vcpu=0)
""",
)
