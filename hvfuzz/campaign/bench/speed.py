"""Benchmark of the op loop: programs and ops per second in each set-up, and the time to reset the machine.

All set-ups run the same programs, interleaved in one process, so that their ratios are stable on a noisy machine.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.mutate.mutation import mutate
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

BATCH: Final = 300
RESET_SIZES: Final = (16 << 20, 1 << 30)


class Speed(NamedTuple):
    """One set-up: the medians over the rounds, and the slowest and the fastest round."""

    name: str
    programs_per_second: float
    ops_per_second: float
    slowest: float
    fastest: float
    """Ops per second."""


class Reset(NamedTuple):
    """Microseconds to reset the machine after a typical program, for a host memory of `memory` bytes."""

    memory: int
    median: float
    low: float
    high: float
    """The 10th and the 90th percentile."""
    dirty: float
    """Median number of frames that a program writes."""


def typical_programs(target: EmulatedTarget, seed: int, seeds: Sequence[Program] = ()) -> list[Program]:
    """Make `BATCH` programs like those of a campaign: mutants of `seeds`, or generated programs without seeds."""
    rng = random.Random(seed)
    made = []
    for _ in range(BATCH):
        if seeds:
            made.append(mutate(rng.choice(seeds), rng, target.catalogue))
        else:
            made.append(generate(rng, target.catalogue))
    return made


def _timed(step: Callable[[Program], int], programs: Sequence[Program]) -> tuple[float, int]:
    begin = time.perf_counter()
    ops = sum(step(program) for program in programs)
    return time.perf_counter() - begin, ops


def measure_speed(programs: Sequence[Program], rounds: int) -> list[Speed]:
    """Measure the bare emulator, with oracles, with the full audit, and the whole loop of the random engine."""
    with EmulatedTarget(oracles=frozenset()) as bare, EmulatedTarget() as full:
        units = [encode(program, full.catalogue) for program in programs]
        kept = {id(program): unit for program, unit in zip(programs, units, strict=True)}
        rng = random.Random(0)

        def worker(program: Program) -> int:
            mutated = encode(mutate(decode(kept[id(program)], full.catalogue), rng, full.catalogue), full.catalogue)
            return full.run(decode(mutated, full.catalogue), audit=False).ops

        setups: list[tuple[str, Callable[[Program], int]]] = [
            ("bare emulator", lambda program: bare.run(program, audit=False).ops),
            ("with oracles", lambda program: full.run(program, audit=False).ops),
            ("with oracles and full audit", lambda program: full.run(program).ops),
            ("with oracles, mutation and bytes (random engine)", worker),
        ]
        for _, step in setups:
            _timed(step, programs[:20])
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in setups}
        for _ in range(rounds):
            for name, step in setups:
                seconds, ops = _timed(step, programs)
                rates[name].append((len(programs) / seconds, ops / seconds))
    return [
        Speed(
            name,
            statistics.median(programs for programs, _ in found),
            statistics.median(ops for _, ops in found),
            min(ops for _, ops in found),
            max(ops for _, ops in found),
        )
        for name, found in rates.items()
    ]


def measure_reset(programs: Sequence[Program]) -> list[Reset]:
    """Time `restore` alone, after each program, for each size of host memory."""
    results = []
    for size in RESET_SIZES:
        with EmulatedTarget(memory_size=size) as target:
            times, dirty = [], []
            for program in programs:
                target.run(program, audit=False)
                system = target.system(program.world)
                dirty.append(len(system.machine.memory.dirty))
                begin = time.perf_counter()
                system.restore()
                times.append((time.perf_counter() - begin) * 1e6)
        cuts = statistics.quantiles(times, n=10)
        results.append(Reset(size, statistics.median(times), cuts[0], cuts[-1], statistics.median(dirty)))
    return results
