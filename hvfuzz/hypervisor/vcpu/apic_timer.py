"""The timer of a local APIC, one-shot and periodic (SDM Vol. 3A, 11.5.4).

It counts ticks of the clock: its count, interrupts and errors, which nothing meters, would else be a finer clock than a
guest may read. `hv.apic_timers` says when each running count reaches zero; a count that does not run is zero. Every
divide value divides a tick, so the distance to that time is a whole count at the beginning of each tick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.hypervisor.vcpu import apic
from hvfuzz.hypervisor.vcpu.apic import CURRENT_COUNT, DIVIDE, INITIAL_COUNT, LVT_TIMER, MASKED
from hvfuzz.hypervisor.vcpu.ticks import tick_start

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.interfaces import ApicTimers
    from hvfuzz.machine.cpu.vcpu import VCpu

REGISTERS = (INITIAL_COUNT, CURRENT_COUNT, DIVIDE)
PERIODIC = 1 << 17


def read(hv: ApicTimers, vcpu: VCpu) -> int:
    """Read the current count register."""
    return left_of(hv, hv.apic_timers.get(vcpu.id), divisor(hv, vcpu))


def left_of(hv: ApicTimers, end: int | None, speed: int) -> int:
    """What is left now of the count that reaches zero at `end`."""
    # The count may have reached zero since the exit began: its interrupt is raised at the next one.
    return 0 if end is None else max(end - tick_start(hv.machine.clock.cycles), 0) // speed


def write(hv: ApicTimers, vcpu: VCpu, register: int, value: int) -> None:
    """Write INITIAL_COUNT, which starts the count (0 stops it), or DIVIDE, which changes the speed of what is left."""
    end, speed = hv.apic_timers.get(vcpu.id), divisor(hv, vcpu)
    apic.put(hv, vcpu, register, value)
    # The clock goes on while the register is written: what is left, and its end, are of the same time.
    # Without this, a change of DIVIDE would also rescale what has been counted, and a count could go up.
    left = value if register == INITIAL_COUNT else left_of(hv, end, speed)
    if left:
        hv.apic_timers[vcpu.id] = tick_start(hv.machine.clock.cycles) + left * divisor(hv, vcpu)
    else:
        hv.apic_timers.pop(vcpu.id, None)


def expire(hv: ApicTimers) -> None:
    """Raise the interrupt of each count that has reached zero; reload periodic ones, and end the others."""
    now = tick_start(hv.machine.clock.cycles)
    for number, end in sorted(hv.apic_timers.items()):
        if end > now:
            continue
        vcpu = hv.machine.vcpus[number]
        lvt = apic.get(hv, vcpu, LVT_TIMER)
        if lvt & PERIODIC:
            period = apic.get(hv, vcpu, INITIAL_COUNT) * divisor(hv, vcpu)
            hv.apic_timers[number] = end + ((now - end) // period + 1) * period
        else:
            del hv.apic_timers[number]
        if not lvt & MASKED:
            apic.accept(hv, vcpu, lvt & 0xFF)


def divisor(hv: ApicTimers, vcpu: VCpu) -> int:
    """Cycles per decrement: 2, 4, .. 128, then 1, by bits 0, 1 and 3 of DIVIDE (SDM Vol. 3A, 11.5.4)."""
    bits = apic.get(hv, vcpu, DIVIDE)
    return 1 << ((bits & 3 | bits >> 1 & 4) + 1 & 7)
