"""The timer's count tells every cycle."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu):
    return 0xFFFFFF - hv.machine.clock.cycles


BUG = Bug(
    name="apic-timer-fine",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:read",
    replacement=replacement,
    findings=("exits/registers/rdmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0xffffff)
rdmsr(dom1, index=X2APIC_CURRENT_COUNT)
""",
)
