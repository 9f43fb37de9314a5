"""Benchmark of the oracles: the processor time that each of them adds to a run, and to an audited run.

An oracle costs what a run takes less when it alone is left out. All set-ups run the same programs, in turn, in one
process. What oracles share (the shadow, the call stack) belongs to none of them: the shares do not add up to the whole.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.all_oracles import NAMES
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

ALL: Final = "all oracles"
NONE: Final = "no oracles"
WARM_UP: Final = 5
"""Programs that each set-up runs before it is measured."""
AUDITED: Final = 10
"""Audited rounds run every so many programs: an audited op takes about ten times as long."""


class OracleCost(NamedTuple):
    """Microseconds of processor time for each op: medians over the rounds. For an oracle, what it adds."""

    name: str
    plain: float
    audited: float


def measure_oracles(programs: Sequence[Program], rounds: int) -> Iterator[int | list[OracleCost]]:
    """Yield the number of each round that is done, then the costs: ALL, NONE, and each oracle."""
    everything = frozenset(NAMES)
    watched = {ALL: everything, NONE: frozenset[str](), **{name: everything - {name} for name in NAMES}}
    with ExitStack() as stack:
        targets = {name: stack.enter_context(EmulatedTarget(oracles=oracles)) for name, oracles in watched.items()}
        times: dict[tuple[str, bool], list[float]] = {}
        for target in targets.values():
            for program in programs[:WARM_UP]:
                target.run(program)
        for number in range(rounds):
            for audit in (False, True):
                for name, target in targets.items():
                    some = programs[::AUDITED] if audit else programs
                    times.setdefault((name, audit), []).append(_microseconds(target, some, audit))
            yield number + 1
    median = {key: statistics.median(found) for key, found in times.items()}

    def added(name: str, audit: bool) -> float:
        return median[name, audit] if name in (ALL, NONE) else median[ALL, audit] - median[name, audit]

    yield [OracleCost(name, added(name, False), added(name, True)) for name in watched]


def _microseconds(target: EmulatedTarget, programs: Sequence[Program], audit: bool) -> float:
    """Processor time of `programs`, for each op."""
    begin = time.process_time()
    ops = sum(target.run(program, audit=audit).ops for program in programs)
    return (time.process_time() - begin) * 1e6 / max(ops, 1)
