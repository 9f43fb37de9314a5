"""The specification of a domain's timer: its registers, and the event that it raises outside of any call.

DELAY written at t -> expires at the first VM exit from floor(t) + ceil(DELAY) on, both in whole grains
PERIOD             -> and so many grains after that, again and again; what passes between two exits is one event
"""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.limits import CLOCK_GRAIN
from hvfuzz.oracles.contract.spec.calls.event import polls, set_run, vcpus
from hvfuzz.oracles.contract.spec.cells import Port, RunState
from hvfuzz.oracles.contract.spec.state import State

PORT, PERIOD, DELAY, EXPIRED = 0x100, 0x108, 0x110, 0x118
REGISTERS: Final = (PORT, PERIOD, DELAY, EXPIRED)
WIDTH: Final = 8


class TimerModel:
    """One timer. `deadline` is in grains of the clock, and None while it is not armed."""

    __slots__ = ("deadline", "values")

    def __init__(self) -> None:
        self.values = dict.fromkeys(REGISTERS, 0)
        self.deadline: int | None = None

    def read(self, offset: int, width: int) -> int:
        """What a load gives."""
        return self.values.get(offset, 0) if width == WIDTH else 0

    def write(self, offset: int, width: int, value: int, cycles: int) -> None:
        """What a store does, at `cycles` of the clock."""
        if width != WIDTH or offset not in self.values:
            return
        self.values[offset] = 0 if offset == EXPIRED else value
        if offset == DELAY:
            self.deadline = cycles // CLOCK_GRAIN - -value // CLOCK_GRAIN if value else None

    def due(self, cycles: int) -> bool:
        """Whether it expires, now that there is an exit; then the next deadline is the one to come."""
        now = cycles // CLOCK_GRAIN
        if self.deadline is None or self.deadline > now:
            return False
        period = -(-self.values[PERIOD] // CLOCK_GRAIN)
        times = 1 + (now - self.deadline) // period if period else 1
        self.values[EXPIRED] = (self.values[EXPIRED] + times) % (1 << 64)
        if period:
            self.deadline += times * period
        else:
            self.deadline = None
            self.values[DELAY] = 0
        return True


def expired(state: State, domain: int, port: int) -> None:
    """The event of a timer comes in: the port is pending, and one vCPU that waits for it goes on."""
    key = ("port", domain, port)
    entry: Port | None = state.get(key)
    if entry is None:
        return
    state[key] = Port(entry.state, entry.remote, entry.remote_port, pending=True)
    for vcpu, run in vcpus(state, domain):
        if run == RunState.BLOCKED or (run == RunState.POLLING and polls(state, domain, vcpu, port)):
            set_run(state, domain, vcpu, RunState.RUNNABLE)
            return
