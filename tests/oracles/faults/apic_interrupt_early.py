"""The interrupt of a periodic APIC timer comes to the cycle: IRR is a clock that nothing counts."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic, apic_timer


def replacement(hv):
    now = hv.machine.clock.cycles
    for number, end in list(hv.apic_timers.items()):
        vcpu = hv.machine.vcpus[number]
        period = apic.get(hv, vcpu, apic.INITIAL_COUNT) * apic_timer.divisor(hv, vcpu)
        if end - now % 0x4000 <= now:
            hv.apic_timers[number] = end + period
            apic.accept(hv, vcpu, apic.get(hv, vcpu, apic.LVT_TIMER) & 0xFF)


BUG = Bug(
    name="apic-interrupt-early",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:expire",
    replacement=replacement,
    findings=("exits/interrupt/cpuid",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x20071)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x400)
cpuid(dom0, leaf=0)
rdmsr(dom1, index=0x823)
""",
)
