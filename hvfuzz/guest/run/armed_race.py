"""The race of the current op, armed at the point of the machine at which it acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hvfuzz.guest.program.program import Op, Point
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.race_points import RacePoints


class ArmedRace:
    """At most one race at a time, on one machine."""

    __slots__ = ("_armed", "_points")

    def __init__(self, machine: Machine) -> None:
        self._points: Final = {
            Point.FETCH: machine.fetches,
            Point.WRITE: machine.writes,
            Point.STEP: machine.preemptions,
        }
        self._armed: RacePoints | None = None
        """Where the race waits."""

    def arm(self, op: Op, perform: Callable[[Op], None]) -> None:
        """Have the race of `op` performed just before the fetch or write that it names, or at the step."""
        race = op.race
        if race is None or (race.op.actor == op.actor and race.op.kind.executed):
            return  # A vCPU in host context executes no guest code.
        self._armed = self._points[race.point]
        self._armed.reset()  # Ops without a race have counted, too.
        self._armed.arm(race.number, lambda: perform(race.op))

    def disarm(self) -> None:
        """End the race, if it has not acted yet."""
        if self._armed is not None:
            self._armed.reset()
            self._armed = None
