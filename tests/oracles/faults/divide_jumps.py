"""A change of DIVIDE leaves the end of the count where it is, so the count itself jumps."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic, apic_timer

ORIGINAL = apic_timer.write


def replacement(hv, vcpu, register, value):
    if register == apic.DIVIDE:
        apic.put(hv, vcpu, register, value)
    else:
        ORIGINAL(hv, vcpu, register, value)


BUG = Bug(
    name="divide-jumps",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:write",
    replacement=replacement,
    findings=("exits/interrupt/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x10000000)
wrmsr(dom1, index=X2APIC_DIVIDE, value=0xb)
rdmsr(dom1, index=X2APIC_CURRENT_COUNT)
""",
)
