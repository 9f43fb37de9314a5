"""The timer's count tells every cycle."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic


def replacement(hv, vcpu):
    return 0xFFFF - (hv.machine.clock.cycles - apic.get(hv, vcpu, apic.STARTED)) % 0xFFFF


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
