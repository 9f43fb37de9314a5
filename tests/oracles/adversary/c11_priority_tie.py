"""An interrupt whose priority class equals that of the processor ends a HLT.

SDM Vol. 3A, 11.8.3.1: only a class above that of PPR is delivered. A kernel that has raised its task priority, so that
interrupts of that class wait, is woken by them, and a nested interrupt of the class in service could interrupt its own
handler (a classic `>=` for `>`).

In the trigger TPR is 0x50; vCPU 0 halts and gets the vectors 0x4f, which must wait, and 0x51, which must wait as well.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.paging import RFLAGS_IF


def pending(hv, vcpu):
    """The interrupt that the vCPU would take."""
    flags = vcpu.vmcs.saved[RFLAGS] if vcpu.in_root else vcpu.regs[RFLAGS]
    if not flags & RFLAGS_IF or not apic.get(hv, vcpu, apic.SVR) & apic.ENABLED:
        return -1
    vector = apic.highest(hv, vcpu, apic.IRR)
    return vector if vector >> 4 >= apic.priority(hv, vcpu) >> 4 else -1


BUG = Bug(
    name="c11-priority-tie",
    title="an interrupt of the processor's own priority class is taken",
    replaces="hvfuzz.hypervisor.vcpu.apic:pending",
    replacement=pending,
    findings=("specification/change/wrmsr",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_TPR, value=0x50)
sti(dom1)
hlt(dom1)
wrmsr(dom1.1, index=X2APIC_ICR, value=0x4f)
pause(dom1)
wrmsr(dom1.1, index=X2APIC_ICR, value=0x51)
pause(dom1)
""",
)
