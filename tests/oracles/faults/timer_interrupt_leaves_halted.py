"""The interrupt of the APIC timer does not end HLT: the vCPU sleeps on although it could take it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic_timer

ORIGINAL = apic_timer.expire


def replacement(hv):
    before = [vcpu.runnable for vcpu in hv.machine.vcpus]
    ORIGINAL(hv)
    for vcpu, runnable in zip(hv.machine.vcpus, before, strict=True):
        vcpu.runnable = runnable


BUG = Bug(
    name="timer-interrupt-leaves-halted",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:expire",
    replacement=replacement,
    findings=("exits/interrupt/cpuid",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x71)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x1000)
sti(dom1)
hlt(dom1)
sched.yield(dom0)
cpuid(dom0, leaf=0)
""",
)
