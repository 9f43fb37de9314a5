"""The specification of a domain's timer: its registers, and the event that it raises without a call.

A write of DELAY at clock t arms the timer. It expires at the first VM exit at or after floor(t) + ceil(DELAY), both in
ticks of the clock. If PERIOD is not 0, it expires again every ceil(PERIOD) ticks; expiries between two exits are one
event.
"""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.limits import CLOCK_TICK
from hvfuzz.oracles.contract.spec.calls.event import raise_event
from hvfuzz.oracles.contract.spec.state import State

PORT, PERIOD, DELAY, EXPIRED = 0x100, 0x108, 0x110, 0x118
REGISTERS: Final = (PORT, PERIOD, DELAY, EXPIRED)
WIDTH: Final = 8


class TimerModel:
    """One timer. `deadline` is in ticks of the clock; None if the timer is not armed."""

    __slots__ = ("deadline", "values")

    def __init__(self) -> None:
        self.values = dict.fromkeys(REGISTERS, 0)
        self.deadline: int | None = None

    def read(self, offset: int, width: int) -> int:
        """The result of a load of `width` bytes at `offset`."""
        return self.values.get(offset, 0) if width == WIDTH else 0

    def write(self, offset: int, width: int, value: int, cycles: int) -> None:
        """Apply a store at clock `cycles`."""
        if width != WIDTH or offset not in self.values:
            return
        self.values[offset] = 0 if offset == EXPIRED else value
        if offset == DELAY:
            self.deadline = cycles // CLOCK_TICK - -value // CLOCK_TICK if value else None

    def due(self, cycles: int) -> bool:
        """Whether the timer expires at a VM exit at clock `cycles`. If so, set the next deadline."""
        now = cycles // CLOCK_TICK
        if self.deadline is None or self.deadline > now:
            return False
        period = -(-self.values[PERIOD] // CLOCK_TICK)
        times = 1 + (now - self.deadline) // period if period else 1
        self.values[EXPIRED] = (self.values[EXPIRED] + times) % (1 << 64)
        if period:
            self.deadline += times * period
        else:
            self.deadline = None
            self.values[DELAY] = 0
        return True


def expired(state: State, domain: int, port: int) -> None:
    """Apply the event of an expired timer, if the domain has its port."""
    if ("port", domain, port) in state:
        raise_event(state, domain, port)
