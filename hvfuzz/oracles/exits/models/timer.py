"""Second model of a domain's timer: wraps the registers of the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvfuzz.oracles.contract.spec.platform.timer import TimerModel
from hvfuzz.oracles.exits.models.second_model import SecondModel

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock


class SecondTimer(SecondModel):
    """The timer of one domain."""

    __slots__ = ("registers",)

    name = "timer"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.registers = TimerModel()

    def mmio_read(self, offset: int, width: int) -> int:
        """Read an 8-byte register."""
        return self.registers.read(offset, width)

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Write an 8-byte register, at the current time."""
        self.registers.write(offset, width, value, self.clock.cycles)

    def expire(self) -> None:
        """Expire if the deadline has passed."""
        self.registers.due(self.clock.cycles)

    def difference(self, subject: Any) -> str:
        """Compare all four registers."""
        registers = [subject.port, subject.period, subject.delay, subject.expired]
        return "" if registers == [*self.registers.values.values()] else f"the registers are {registers}"
