"""A one-shot count begins again when it has ended."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic, apic_timer


def replacement(hv):
    for number, end in list(hv.apic_timers.items()):
        vcpu = hv.machine.vcpus[number]
        if end <= hv.machine.clock.cycles:
            apic_timer.write(hv, vcpu, apic.INITIAL_COUNT, apic.get(hv, vcpu, apic.INITIAL_COUNT))
            apic.accept(hv, vcpu, apic.get(hv, vcpu, apic.LVT_TIMER) & 0xFF)


BUG = Bug(
    name="one-shot-again",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:expire",
    replacement=replacement,
    findings=("exits/registers/rdmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x71)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x1000)
sched.yield(dom0)
rdmsr(dom1, index=X2APIC_CURRENT_COUNT)
""",
)
