"""An interrupt that arrives sets RFLAGS.IF of the vCPU that it is for.

A vCPU that has interrupts masked holds a lock, or is in the middle of a switch. Another vCPU, by an IPI, ends that: the
target can be interrupted at once, and its HLT, which was to wait for an event only, returns.

In the trigger vCPU 1 masks interrupts and gets an IPI; its HLT does not halt, as it can take the interrupt.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.paging import RFLAGS_IF


def accept(hv, vcpu, vector):
    """Accept an interrupt, and make sure that it is taken."""
    if not apic.get(hv, vcpu, apic.SVR) & apic.ENABLED:
        return
    if vector < apic.FIRST_LEGAL:
        apic.fail(hv, vcpu, apic.RECEIVE_ILLEGAL)
        return
    apic.set_vector(hv, vcpu, apic.IRR, vector, True)
    vcpu.regs[RFLAGS] |= RFLAGS_IF
    if vcpu.runnable == RunState.HALTED and apic.pending(hv, vcpu) >= 0:
        hv.scheduler.wake(vcpu)


BUG = Bug(
    name="c05-ipi-unmasks",
    title="an IPI sets the interrupt flag of its target",
    replaces="hvfuzz.hypervisor.vcpu.apic:accept",
    replacement=accept,
    findings=("principal/injection/wrmsr",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom1.1, index=X2APIC_SVR, value=0x1ff)
cli(dom1.1)
wrmsr(dom1, index=X2APIC_ICR, value=0x100000031)
hlt(dom1.1)
pause(dom1.1)
""",
)
