"""How far the clock may be moved before an op without the actor's learning of it, by the contract's two roundings.

A guest sees the clock in whole grains where it makes a counted read, and in whole ticks elsewhere. So if an op takes
place within one grain, or tick, it must come out the same at any other time in it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hvfuzz.abi.limits import CLOCK_GRAIN, CLOCK_READS, CLOCK_TICK, CLOCK_WINDOW
from hvfuzz.guest.program.program import Op, Program, batched
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.machine.cpu.msrs import TSC
from hvfuzz.oracles.noninterference.channels import Channel

READS: Final = ("time.clock_read", "rdtsc", "rdtscp")
MSR_ACCESSES: Final = ("rdmsr", "wrmsr")
UNKNOWN: Final = ("vmcall", "blob")
SETTERS: Final = ("sched.poll", "mmio_write", "wrmsr")
"""Kinds of ops that set deadlines; the others can tell whether one is met."""
BEFORE_READ: Final = 1024
"""Cycles from the exit of a clock read to the read: more than fetching its struct takes."""


class Timing(NamedTuple):
    """When an op began and ended, and each time at which a VM exit began in it; virtual cycles."""

    start: int
    end: int
    exits: tuple[int, ...]


def sees_grains(program: Program, index: int) -> bool:
    """Whether the op may make a counted read, or set a counter, which goes on from whole grains."""
    following = batched(program.ops, index)
    for op in program.ops[index : index + 1 + following]:
        if op.kind.follow is not None and (not following or op.mangle is not None):
            return True  # it takes its entries from memory
        if _reads(op) or (op.race is not None and (_reads(op.race.op) or op.kind.follow is not None)):
            return True
    return False


def _reads(op: Op) -> bool:
    name = op.kind.name
    if name in MSR_ACCESSES:
        index = op.values[op.kind.index["index"]]
        return not isinstance(index, int) or index == TSC
    return name in READS or name in UNKNOWN


def is_single_read(op: Op) -> bool:
    """Whether the op is one counted read of the clock, by itself, whose struct nothing damages."""
    if op.race is not None or op.mangle is not None:
        return False
    return op.kind.name in READS or (op.kind.name == "rdmsr" and op.values[op.kind.index["index"]] == TSC)


class ReadCount:
    """Counts the clock reads of each domain by window, from outcomes alone; where it cannot tell, it counts too few."""

    def __init__(self) -> None:
        self._reads: Final[dict[tuple[int, int], int]] = {}

    def used_up(self, op: Op, timing: Timing) -> bool:
        """Whether the op is a read beyond the last of its window, which must tell nothing of the time in it."""
        window = timing.start // CLOCK_WINDOW
        if not is_single_read(op) or not timing.exits or timing.exits[-1] // CLOCK_TICK != timing.start // CLOCK_TICK:
            return False
        return self._reads.get((op.actor.domain, window), 0) >= CLOCK_READS

    def count(self, op: Op, timing: Timing, outcome: Outcome) -> None:
        """Count what the op read."""
        if is_single_read(op) and outcome.how == Result.OK and not outcome.status:
            first, window = timing.start // CLOCK_WINDOW, timing.end // CLOCK_WINDOW
            if first == window:
                key = op.actor.domain, window
                self._reads[key] = self._reads.get(key, 0) + 1


def shift(timing: Timing, step: int, late: bool) -> int:
    """The cycles to move the op by: to the start of its grain or tick of `step` cycles, or with `late` to the end.

    0 if the op does not take place within one.
    """
    start, end = timing.start, timing.end
    if start // step != end // step:
        return 0
    return step - 1 - end % step if late else -(start % step)


def shift_of_waiting(timing: Timing, late: bool) -> int:
    """The same for a read that waits for the next window: what comes before its wait has to be within the tick."""
    left = CLOCK_TICK - 1 - timing.exits[-1] % CLOCK_TICK - BEFORE_READ
    return max(0, left) if late else -(timing.start % CLOCK_TICK)


def allowed_shift(
    program: Program, index: int, timing: Timing, used_up: bool, late: bool, declared: frozenset[Channel]
) -> int:
    """How far to move op number `index`, by the channels that are `declared`.

    With `late`, ops that set deadlines are early and all others late; else it is the other way round.
    """
    op = program.ops[index]
    if op.kind.name in SETTERS:
        late = not late
    if used_up:
        return shift_of_waiting(timing, late)
    if Channel.GRAINS in declared and sees_grains(program, index):
        return shift(timing, CLOCK_GRAIN, late)
    if Channel.TICKS in declared:
        return shift(timing, CLOCK_TICK, late)
    return shift(timing, CLOCK_WINDOW, late)
