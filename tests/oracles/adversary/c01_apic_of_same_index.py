"""RDMSR of an x2APIC register reads the APIC of the vCPU of the machine that has the same number.

Of the two numbers that a vCPU has, the one within its domain selects the register page. A guest reads the task
priority, the pending interrupts and the interrupt commands of the control domain (what XSA-108 gave by an overrun).

In the trigger dom0 sets its task priority, and dom1 and dom2 read that value as theirs.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic, apic_timer, guest_clock, msr
from hvfuzz.machine.cpu.msrs import TSC


def read(hv, vcpu, index):
    """RDMSR, with the register page chosen by the vCPU's index."""
    if index in apic.MSRS:
        register = index - apic.FIRST_MSR
        if not apic.readable(register):
            return None
        if register == apic.CURRENT_COUNT:
            return apic_timer.read(hv, vcpu)
        place = hv.machine.vcpus[vcpu.index]
        return apic.priority(hv, vcpu) if register == apic.PPR else apic.get(hv, place, register)
    if index == TSC:
        return guest_clock.read_counter(hv, vcpu)
    return msr.constant(vcpu, index)


BUG = Bug(
    name="c01-apic-of-same-index",
    title="a guest reads the local APIC of the control domain: vcpu->index for vcpu->id",
    replaces="hvfuzz.hypervisor.vcpu.msr:read",
    replacement=read,
    findings=("exits/registers/rdmsr",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom0, index=X2APIC_TPR, value=0x70)
rdmsr(dom1, index=X2APIC_TPR)
rdmsr(dom2, index=X2APIC_TPR)
""",
)
