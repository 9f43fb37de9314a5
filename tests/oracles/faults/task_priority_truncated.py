"""MOV to CR8 ignores reserved bits that are #GP(0)."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import step_over
from hvfuzz.hypervisor.vcpu import apic


def replacement(hv, vcpu):
    apic.write(hv, vcpu, apic.TPR, vcpu.vmcs.saved[0] << 4 & 0xFF)
    step_over(vcpu.vmcs)


BUG = Bug(
    name="task-priority-truncated",
    replaces="hvfuzz.hypervisor.core.exits:cr_access",
    replacement=replacement,
    findings=("exits/fault/mov_cr",),
    trigger="""\
# hvp 1
world pair
mov_cr(dom1, register=CR8, value=0x10)
""",
)
