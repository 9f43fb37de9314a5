"""What happens without any vCPU: a device acts by itself, and time passes until a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hvfuzz.guest.run.instructions import Unreachable
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine

LONGEST_WAIT: Final = 1 << 24
"""Cycles to a deadline for which the op `timer` waits, at most: a small part of a program's budget."""
Waking = Callable[[int, bool], None]
"""Called around what a device does by itself, with its number and whether it begins."""


class OutsideWorld:
    """Performs the ops that no vCPU executes, on `machine`."""

    __slots__ = ("machine", "waking")

    def __init__(self, machine: Machine) -> None:
        self.machine: Final = machine
        self.waking: Waking | None = None

    def dma(self, vcpu: VCpu, values: Sequence[int]) -> None:
        """A device of the vCPU's domain acts. Raises Unreachable if the domain does not have that device."""
        devices, number = self.machine.devices, values[0]
        if number >= len(devices) or self.machine.user_of(devices[number]) != vcpu.domain:
            raise Unreachable
        if self.waking is not None:
            self.waking(number, True)
        devices[number].wake()
        if self.waking is not None:
            self.waking(number, False)

    def timer(self, vcpu: VCpu, _values: Sequence[int]) -> None:
        """Time passes until the next deadline of the vCPU or its domain. Raises Unreachable if it is far, or none."""
        clock = self.machine.clock
        deadline = self.machine.next_deadline(vcpu)
        if deadline is None or deadline - clock.cycles > LONGEST_WAIT:
            raise Unreachable
        clock.wait_until(deadline)
