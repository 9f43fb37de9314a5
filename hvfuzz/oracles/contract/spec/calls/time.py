"""The rule of family `time`, and reads of the time-stamp counter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from hvfuzz.abi.limits import CLOCK_GRAIN, CLOCK_READS, CLOCK_WINDOW
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import Hfn
from hvfuzz.oracles.contract.spec.cells import ClockWindow
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Expected, Mismatch


class Reading(NamedTuple):
    """A read of the time-stamp counter: the value read, the clock afterwards, and the window with this read."""

    told: int
    cycles: int
    window: ClockWindow


def rounded(cycles: int) -> int:
    """The clock, rounded as guests read it."""
    return cycles // CLOCK_GRAIN * CLOCK_GRAIN


def counter_read(latest: ClockWindow, cycles: int) -> Reading:
    """RDTSC at clock `cycles` by a domain whose last reads are `latest`. It waits when `clock_read` would refuse."""
    number = cycles // CLOCK_WINDOW
    if latest.number == number and latest.reads >= CLOCK_READS:
        number += 1
        cycles = number * CLOCK_WINDOW
    reads = latest.reads + 1 if number == latest.number else 1
    return Reading(rounded(cycles), cycles, ClockWindow(number, reads))


def clock_read(state: State, call: Call, evidence: Evidence) -> Expected:
    """Return the clock at some time within the call, rounded down; a domain's reads in a window are limited."""
    observed = evidence.observed
    key = ("clock_window", call.caller)
    latest: ClockWindow = state.get(key) or ClockWindow(-1, 0)
    first, last = call.cycles // CLOCK_WINDOW, max(call.cycles, observed.cycles) // CLOCK_WINDOW
    if observed.status != Status.OK:
        # The call may have read the clock in a window whose reads are used up, if it began in that.
        spent = latest.reads >= CLOCK_READS and first <= latest.number <= last
        return Status.AGAIN if spent else Accept(rounded(call.cycles))
    cycles = observed.result
    earliest = rounded(call.cycles)
    if cycles % CLOCK_GRAIN or not earliest <= cycles <= max(call.cycles, observed.cycles):
        text = f"{cycles} is not a rounded clock from {call.cycles} to {observed.cycles}"
        return Mismatch("result", call.name, text)
    number = cycles // CLOCK_WINDOW
    reads = latest.reads + 1 if number == latest.number else 1
    if reads > CLOCK_READS:
        return Status.AGAIN

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        state[key] = ClockWindow(number, reads)

    return Accept(cycles, effect)


RULES: Final[Mapping[str, Rule]] = {"clock_read": clock_read}
