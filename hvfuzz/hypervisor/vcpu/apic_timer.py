"""The timer of a local APIC, one-shot and periodic (SDM Vol. 3A, 11.5.4).

It counts rounded cycles, so that it is no finer clock than the others. Reading the current count is a read of the
domain's clock. A count that has ended is noticed at the next exit of any vCPU.
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
    """Read the current count register."""
    now = guest_clock.read_clock(hv, vcpu)
    initial = apic.get(hv, vcpu, INITIAL_COUNT)
    if not initial:
        return 0
    passed = (now - apic.get(hv, vcpu, STARTED)) // divisor(hv, vcpu)
    if apic.get(hv, vcpu, LVT_TIMER) & PERIODIC:
        return initial - passed % initial
    return max(initial - passed, 0)


def write(hv: ApicTimers, vcpu: VCpu, register: int, value: int) -> None:
    """Write INITIAL_COUNT, which starts the count (0 stops it), or DIVIDE, which changes its speed."""
    apic.put(hv, vcpu, register, value)
    if register == INITIAL_COUNT:
        apic.put(hv, vcpu, STARTED, quantised(hv.machine.clock.cycles))
        hv.apic_timers.pop(vcpu.id, None)
        if value:
            hv.apic_timers[vcpu.id] = end(hv, vcpu)
    elif vcpu.id in hv.apic_timers:
        hv.apic_timers[vcpu.id] = end(hv, vcpu)


def expire(hv: ApicTimers) -> None:
    """Raise the interrupt of each count that has ended; restart periodic ones."""
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
    """End of the current count, in cycles."""
    return apic.get(hv, vcpu, STARTED) + apic.get(hv, vcpu, INITIAL_COUNT) * divisor(hv, vcpu)


def divisor(hv: ApicTimers, vcpu: VCpu) -> int:
    """Cycles per decrement: 2, 4, .. 128, then 1, by bits 0, 1 and 3 of DIVIDE (SDM Vol. 3A, 11.5.4)."""
    bits = apic.get(hv, vcpu, DIVIDE)
    return 1 << ((bits & 3 | bits >> 1 & 4) + 1 & 7)
