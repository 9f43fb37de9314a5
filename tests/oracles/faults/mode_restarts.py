"""A write of the timer's LVT entry starts a count that has ended again."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic, apic_timer

ORIGINAL = apic.write


def replacement(hv, vcpu, register, value):
    ORIGINAL(hv, vcpu, register, value)
    if register == apic.LVT_TIMER and vcpu.id not in hv.apic_timers:
        apic_timer.write(hv, vcpu, apic.INITIAL_COUNT, apic.get(hv, vcpu, apic.INITIAL_COUNT))


BUG = Bug(
    name="mode-restarts",
    replaces="hvfuzz.hypervisor.vcpu.apic:write",
    replacement=replacement,
    findings=("exits/interrupt/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_DIVIDE, value=0xb)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x4000)
sched.yield(dom0)
sched.yield(dom0)
wrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x20071)
""",
)
