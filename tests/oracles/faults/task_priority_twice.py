"""MOV to CR8 is kept apart from the TPR: the APIC goes on with another priority than the processor."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import step_over


def replacement(hv, vcpu):
    if vcpu.vmcs.qualification & 1 << 4:
        vcpu.vmcs.saved[0] = 0
    step_over(vcpu.vmcs)


BUG = Bug(
    name="task-priority-twice",
    replaces="hvfuzz.hypervisor.core.exits:cr_access",
    replacement=replacement,
    findings=("exits/interrupt/mov_cr",),
    trigger="""\
# hvp 1
world pair
mov_cr(dom1, register=CR8, value=5)
""",
)
