"""The timer of a local APIC: it counts rounded cycles, so that it is no finer clock than the others.

(SDM Vol. 3A, 11.5.4; one-shot and periodic.) Reading the current count is a read of the domain's clock. That a count
has ended is noticed at the next exit of any vCPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.hypervisor.vcpu import apic, guest_clock
from hvfuzz.hypervisor.vcpu.apic import CURRENT_COUNT, DIVIDE, INITIAL_COUNT, LVT_TIMER, MASKED, STARTED
from hvfuzz.hypervisor.vcpu.guest_clock import quantised

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.interfaces import ApicTimers
    from hvfuzz.machine.cpu.vcpu import VCpu

REGISTERS = (INITIAL_COUNT, CURRENT_COUNT, DIVIDE)
PERIODIC = 1 << 17


def read(hv: ApicTimers, vcpu: VCpu) -> int:
    """The current count."""
    now = guest_clock.read_clock(hv, vcpu)
    initial = apic.get(hv, vcpu, INITIAL_COUNT)
    if not initial:
        return 0
    passed = (now - apic.get(hv, vcpu, STARTED)) // divisor(hv, vcpu)
    if apic.get(hv, vcpu, LVT_TIMER) & PERIODIC:
        return initial - passed % initial
    return max(initial - passed, 0)


def write(hv: ApicTimers, vcpu: VCpu, register: int, value: int) -> None:
    """Start the count, or stop it with 0; or have it run at another speed."""
    apic.put(hv, vcpu, register, value)
    if register == INITIAL_COUNT:
        apic.put(hv, vcpu, STARTED, quantised(hv.machine.clock.cycles))
        hv.apic_timers.pop(vcpu.id, None)
        if value:
            hv.apic_timers[vcpu.id] = end(hv, vcpu)
    elif vcpu.id in hv.apic_timers:
        hv.apic_timers[vcpu.id] = end(hv, vcpu)


def expire(hv: ApicTimers) -> None:
    """Interrupt for each count that has ended."""
    now = quantised(hv.machine.clock.cycles)
    for number in [number for number, deadline in sorted(hv.apic_timers.items()) if deadline <= now]:
        vcpu = hv.machine.vcpus[number]
        lvt = apic.get(hv, vcpu, LVT_TIMER)
        if lvt & PERIODIC:
            started = apic.get(hv, vcpu, STARTED)
            period = end(hv, vcpu) - started
            apic.put(hv, vcpu, STARTED, now - (now - started) % period)
            hv.apic_timers[number] = end(hv, vcpu)
        else:
            del hv.apic_timers[number]
        if not lvt & MASKED:
            apic.accept(hv, vcpu, lvt & 0xFF)


def end(hv: ApicTimers, vcpu: VCpu) -> int:
    """When the present count ends, in cycles."""
    return apic.get(hv, vcpu, STARTED) + apic.get(hv, vcpu, INITIAL_COUNT) * divisor(hv, vcpu)


def divisor(hv: ApicTimers, vcpu: VCpu) -> int:
    """Cycles for each step of the count: 2 to 128, then 1."""
    bits = apic.get(hv, vcpu, DIVIDE)
    return 1 << ((bits & 3 | bits >> 1 & 4) + 1 & 7)
