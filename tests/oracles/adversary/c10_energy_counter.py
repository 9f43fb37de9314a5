"""RDMSR of the energy counter tells a guest how much the whole machine works.

As in XSA-351 (Platypus): the running average power limit MSRs were readable by every guest. The counter goes up with
what the host does for any domain, finely enough to follow another guest's hypercalls, or to find bits of its keys.

In the trigger dom1 reads MSR 0x611 before and after dom2 has worked.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic, apic_timer, guest_clock, msr
from hvfuzz.machine.cpu.msrs import TSC

PACKAGE_ENERGY = 0x611
"""MSR_PKG_ENERGY_STATUS."""


def read(hv, vcpu, index):
    """RDMSR, with the energy counter passed through."""
    if index == PACKAGE_ENERGY:
        return hv.work.units >> 2 & 0xFFFF_FFFF
    if index in apic.MSRS:
        register = index - apic.FIRST_MSR
        if not apic.readable(register):
            return None
        if register == apic.CURRENT_COUNT:
            return apic_timer.read(hv, vcpu)
        return apic.priority(hv, vcpu) if register == apic.PPR else apic.get(hv, vcpu, register)
    if index == TSC:
        return guest_clock.read_counter(hv, vcpu)
    return msr.constant(vcpu, index)


BUG = Bug(
    name="c10-energy-counter",
    title="an energy counter shows every guest what the others do",
    advisory="XSA-351, CVE-2020-28368",
    replaces="hvfuzz.hypervisor.vcpu.msr:read",
    replacement=read,
    findings=("exits/fault/rdmsr",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
rdmsr(dom1, index=0x611)
memory.populate(dom2, first=0x100, count=64, order=0)
rdmsr(dom1, index=0x611)
""",
)
