"""The count of an APIC timer is its end less the time, also when the end has passed since the exit began.

In the trigger the time of the second timer is over while the interrupt of the first is raised, at the start of the exit
that reads the second one's count.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.ticks import tick_start


def left_of(hv, end, speed):
    return 0 if end is None else (end - tick_start(hv.machine.clock.cycles)) // speed & 0xFFFF_FFFF


BUG = Bug(
    name="raced-count-below-zero",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:left_of",
    replacement=left_of,
    findings=("exits/registers/rdmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1.1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1.1, index=X2APIC_LVT_TIMER, value=0x40)
wrmsr(dom1.1, index=X2APIC_INITIAL_COUNT, value=0x1000)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x100001)
timer(dom1.1)
race before write 0: timer(dom1)
rdmsr(dom1, index=X2APIC_CURRENT_COUNT)
""",
)
