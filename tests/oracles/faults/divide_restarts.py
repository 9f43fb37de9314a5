"""A write of the divide configuration starts the count anew, also one that has ended."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic, apic_timer

ORIGINAL = apic_timer.write


def replacement(hv, vcpu, register, value):
    ORIGINAL(hv, vcpu, register, value)
    if register == apic.DIVIDE:
        ORIGINAL(hv, vcpu, apic.INITIAL_COUNT, apic.get(hv, vcpu, apic.INITIAL_COUNT))


BUG = Bug(
    name="divide-restarts",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:write",
    replacement=replacement,
    findings=("exits/interrupt/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_DIVIDE, value=0xb)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x4000)
sched.yield(dom0)
sched.yield(dom0)
wrmsr(dom1, index=X2APIC_DIVIDE, value=1)
""",
)
