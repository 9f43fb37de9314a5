"""The error interrupt of a local APIC is raised in the vCPU of the machine that has the same index.

A guest sets the vector in its own LVT entry, sends itself an illegal interrupt, and the control domain is interrupted
with that vector.

In the trigger dom1 has vector 0x41 for errors, and sends itself vector 5. dom0 has 0x41 pending.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic


def fail(hv, vcpu, error):
    """Record an error, and raise the error interrupt."""
    apic.put(hv, vcpu, apic.ERRORS, apic.get(hv, vcpu, apic.ERRORS) | error)
    lvt = apic.get(hv, vcpu, apic.LVT_ERROR)
    if not lvt & apic.MASKED and lvt & 0xFF >= apic.FIRST_LEGAL:
        apic.accept(hv, hv.machine.vcpus[vcpu.index], lvt & 0xFF)


BUG = Bug(
    name="c11-error-interrupt-to-control",
    title="the APIC error interrupt of a guest is raised in the control domain",
    replaces="hvfuzz.hypervisor.vcpu.apic:fail",
    replacement=fail,
    findings=("exits/interrupt/wrmsr",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom0, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=0x837, value=0x41)
wrmsr(dom1, index=X2APIC_SELF_IPI, value=5)
rdmsr(dom0, index=0x822)
rdmsr(dom1, index=0x822)
""",
)
