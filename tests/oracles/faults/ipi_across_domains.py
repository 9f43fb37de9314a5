"""An interrupt command is for whoever has that APIC ID, in any domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic


def replacement(hv, vcpu, command):
    return [other for other in hv.machine.vcpus if apic.get(hv, other, apic.ID) == command >> 32]


BUG = Bug(
    name="ipi-across-domains",
    replaces="hvfuzz.hypervisor.vcpu.apic:targets",
    replacement=replacement,
    findings=("exits/interrupt/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom2, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_ICR, value=0x31)
""",
)
