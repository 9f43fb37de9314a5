"""`sched.block` blocks the other vCPU of the domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls.sched import BlockVcpu


def replacement(self, hv, caller, vcpu):
    return Effect((BlockVcpu(caller.id, (vcpu.index + 1) % len(caller.vcpus)),))


BUG = Bug(
    name="block-of-a-sibling",
    replaces="hvfuzz.hypervisor.hypercalls.sched:Block.check",
    replacement=replacement,
    findings=("principal/step/sched.block",),
    trigger="""\
# hvp 1
world pair
sched.block(dom1)
""",
)
