"""The number is that of a vCPU of the machine."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls import sched


def replacement(self, hv, caller, vcpu):
    v = hv.machine.vcpus[self.vcpu]
    return Effect((sched.WakeVcpu(v.domain, v.index),), 1) if v.runnable else Effect()


BUG = Bug(
    name="kick-any",
    replaces="hvfuzz.hypervisor.hypercalls.sched:Kick.check",
    replacement=replacement,
    findings=("principal/step/sched.kick",),
    trigger="""\
# hvp 1
world pair
sched.block(dom2)
sched.kick(dom1, vcpu=3)
""",
)
