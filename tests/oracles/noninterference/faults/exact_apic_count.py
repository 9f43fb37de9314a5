"""The APIC timer counts cycles where it should count ticks.

Its current count is read as often as a guest likes.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.apic_timer import divisor


def read(hv, vcpu):
    """Read the current count register."""
    end = hv.apic_timers.get(vcpu.id)
    return 0 if end is None else max(0, end - hv.machine.clock.cycles) // divisor(hv, vcpu)


BUG = Bug(
    name="exact-apic-count",
    title="the APIC timer's count is an exact clock",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:read",
    replacement=read,
    findings=("noninterference/result/rdmsr",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_DIVIDE, value=0xb)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x100000)
rdmsr(dom1, index=X2APIC_CURRENT_COUNT)
""",
)
