"""An interrupt is noted, and the vCPU that halts for it sleeps on."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic


def replacement(hv, vcpu, vector):
    if apic.get(hv, vcpu, apic.SVR) & apic.ENABLED and vector >= 16:
        apic.set_vector(hv, vcpu, apic.IRR, vector, True)


BUG = Bug(
    name="ipi-wakes-nobody",
    replaces="hvfuzz.hypervisor.vcpu.apic:accept",
    replacement=replacement,
    findings=("exits/interrupt/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
sti(dom1)
hlt(dom1)
wrmsr(dom1.1, index=X2APIC_ICR, value=0x31)
""",
)
