"""A periodic APIC timer catches up one period at a time.

The period can be one cycle, and a guest decides how long nobody exits. Each exit after that, of any domain, runs the
loop for the time that has passed: a hundred thousand turns and more in host context, without a preemption point, that
touch no table and no page (KVM and Xen bound the period for this reason).

In the trigger dom1 starts such a timer, and dom2 yields 16 times in one exit. The next exit pays for it.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic
from hvfuzz.hypervisor.vcpu.apic_timer import INITIAL_COUNT, LVT_TIMER, MASKED, PERIODIC, divisor
from hvfuzz.hypervisor.vcpu.ticks import tick_start


def expire(hv):
    """Raise the interrupts of the counts that have reached zero."""
    now = tick_start(hv.machine.clock.cycles)
    for number, end in sorted(hv.apic_timers.items()):
        if end > now:
            continue
        vcpu = hv.machine.vcpus[number]
        lvt = apic.get(hv, vcpu, LVT_TIMER)
        if lvt & PERIODIC:
            period = apic.get(hv, vcpu, INITIAL_COUNT) * divisor(hv, vcpu)
            following = end
            while following <= now:
                following += period
            hv.apic_timers[number] = following
        else:
            del hv.apic_timers[number]
        if not lvt & MASKED:
            apic.accept(hv, vcpu, lvt & 0xFF)


BUG = Bug(
    name="c07-catch-up-loop",
    title="the periodic timer is advanced period by period, as often as the guest likes",
    replaces="hvfuzz.hypervisor.vcpu.apic_timer:expire",
    replacement=expire,
    findings=("work/turns/cpuid",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x20071)
wrmsr(dom1, index=X2APIC_DIVIDE, value=0xb)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=1)
multicall(dom2, count=16)
"""
    + "  sched.yield(dom2)\n" * 16
    + "cpuid(dom2, leaf=0)\n",
)
