"""The coverage-guided engine: libFuzzer through atheris, with our mutator, crossover, dictionary and features.

The only module that imports atheris. What it takes from there beyond the documented API (`_reserve_counter`,
`_trace_branch`) is used in `_Counters` alone, which falls back to no state features with a warning.
"""

import os
import pkgutil
import random
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from types import FunctionType
from typing import Any, Final

import atheris

import hvfuzz.hypervisor
from hvfuzz.engines.engine import BudgetSpent, EngineError, Feedback, Job, Session, write_whole
from hvfuzz.engines.units import Units
from hvfuzz.guest.format.dictionary import dictionary
from hvfuzz.guest.generate.generation import generate
from hvfuzz.guest.mutate.mutation import crossover, mutate
from hvfuzz.guest.program.program import MAX_OPS
from hvfuzz.targets.emulated.features import SPACE

NEW_PROGRAMS: Final = 0.6
"""How many of all mutations are no mutations but new programs. What is generated holds idioms, so that the new
programs find most of the planted bugs; mutation is for what no idiom covers."""
BYTE_MUTATIONS: Final = 0.06
"""How many are libFuzzer's own, on bytes, with its dictionary; the rest are ours, on ops."""
CROSSOVERS: Final = 0.2
"""How many of the crossovers that libFuzzer asks for are."""
USUAL_OPS: Final = 40
"""Mutation makes no program longer than this."""
MAX_BYTES: Final = 4096
NO_TIMEOUT: Final = 1_000_000
"""Seconds. The target's own watchdog makes a finding of an op that does not end; 0 would mean one second to atheris."""


class _Counters:
    """State features as libFuzzer's 8-bit counters, which it scans after every run."""

    def __init__(self) -> None:
        reserve = getattr(atheris, "_reserve_counter", None)
        self._hit: Callable[[int], None] | None = None
        self._numbers: Final[list[int]] = []
        if reserve is None or not hasattr(atheris, "_trace_branch"):
            print("hvfuzz: this atheris has no counters to reserve: no state feedback", file=sys.stderr)
            return
        self._numbers.extend(reserve() for _ in range(SPACE))

    def hit(self, features: Iterable[int]) -> None:
        """Count each feature once."""
        numbers = self._numbers
        if not numbers:
            return
        hit = self._hit
        if hit is None:
            # `Fuzz` binds the name anew; the function of before counts where nobody looks.
            hit = self._hit = atheris._trace_branch
        for feature in features:
            hit(numbers[feature])


def _functions(holder: Any, package: str) -> Iterable[FunctionType]:
    """Every function and method that is defined in `package` and reachable from module or class `holder`."""
    for member in list(vars(holder).values()):
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if isinstance(member, property) and member.fget is not None:
            member = member.fget
        if isinstance(member, FunctionType) and member.__module__.startswith(package):
            yield member
        elif isinstance(member, type) and member.__module__ == getattr(holder, "__name__", None):
            yield from _functions(member, package)


def instrument_hypervisor() -> int:
    """Instrument the bytecode of the hypervisor package alone; returns how many functions that are.

    Function by function and not at import: atheris' import hook knows only a name's first dotted part, and would
    instrument the oracles and the mutator with it.
    """
    package = hvfuzz.hypervisor.__name__
    done: set[int] = set()
    for found in pkgutil.walk_packages(hvfuzz.hypervisor.__path__, package + "."):
        for function in _functions(import_module(found.name), package):
            if id(function) not in done:
                done.add(id(function))
                atheris.instrument_func(function)
    return len(done)


class _Driver:
    """What libFuzzer calls: the run, our mutator and our crossover, all over one session."""

    def __init__(self, job: Job, session: Session, units: Units) -> None:
        self._session: Final = session
        self._units: Final = units
        self._weights: Final = job.harness.weights
        self._rng: Final = random.Random(job.seed)
        self._counters: Final = _Counters() if job.feedback is not Feedback.BYTECODE else None

    def run(self, data: bytes) -> None:
        """One run; the process ends here once the budget is spent."""
        try:
            result = self._session.run(self._units.program(data))
        except BudgetSpent:
            # libFuzzer has written its files; leaving by an exception would look like a crash to it.
            sink = self._session.sink
            sink.progress(self._session.progress())
            status = sink.ended()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        if self._counters is not None:
            self._counters.hit(result.features)

    def mutate(self, data: bytes, limit: int, seed: int) -> bytes:
        """libFuzzer's custom mutator. What it gives is always canonical, so that units of the corpus are."""
        rng = self._rng
        rng.seed(seed)
        try:
            return self._mutated(data, limit, rng)
        except Exception:
            return _mistake(data)

    def _mutated(self, data: bytes, limit: int, rng: random.Random) -> bytes:
        units = self._units
        choice = rng.random()
        if choice < NEW_PROGRAMS:
            return units.fit(generate(rng, units.catalogue, weights=self._weights), limit, MAX_OPS)
        program = units.program(data)
        # What has grown is slow, and mostly the same again; a long seed has its reasons.
        ops = max(USUAL_OPS, len(program.ops))
        if choice < NEW_PROGRAMS + BYTE_MUTATIONS:
            return units.fit(units.program(atheris.Mutate(data, limit)), limit, ops)
        return units.fit(mutate(program, rng, units.catalogue, self._weights), limit, ops)

    def cross(self, left: bytes, right: bytes, limit: int, seed: int) -> bytes:
        """libFuzzer's custom crossover. It asks for one every other time, too often: the rest are mutations."""
        rng = self._rng
        rng.seed(seed)
        try:
            if rng.random() >= CROSSOVERS:
                return self._mutated(left, limit, rng)
            one, other = self._units.program(left), self._units.program(right)
            ops = max(USUAL_OPS, len(one.ops), len(other.ops))
            return self._units.fit(crossover(one, other, rng, self._units.catalogue), limit, ops)
        except Exception:
            return _mistake(left)


def _mistake(data: bytes) -> bytes:
    """What a mutator gives when it fails: an exception there hangs atheris for ever, or ends it misleadingly."""
    traceback.print_exc()
    return data


class AtherisEngine:
    """libFuzzer drives; this process ends with it, since `atheris.Fuzz` does not return."""

    def fuzz(self, job: Job, session: Session) -> None:
        """Fuzz until the budget is spent, then end the process (findings are saved as they come)."""
        units = Units(session.target.catalogue)
        driver = _Driver(job, session, units)
        if job.feedback is not Feedback.STATE:
            instrument_hypervisor()
        corpus = job.corpus
        for folder in (corpus, job.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        seeds = units.write_seeds(job)
        session.corpus = lambda: len(seeds) + sum(1 for _ in os.scandir(corpus))
        # A worker's own: where there are no seeds, each begins with other programs.
        listed = job.scratch / f"{job.harness.name}-{job.seed}.seeds"
        write_whole(listed, ",".join(map(str, seeds)).encode())
        # By a list and not as a folder: the order of files in a folder is another on every machine.
        given = [f"-seed_inputs=@{listed}", str(corpus)]
        if any("," in str(path) for path in seeds):  # which would end a name in the list
            given = [str(corpus), str(seeds[0].parent)]
        words = job.scratch / f"{job.harness.name}.dict"
        write_whole(words, dictionary(units.catalogue).encode())
        arguments = [
            sys.argv[0],
            f"-seed={job.seed & 0x7FFF_FFFF or 1}",
            f"-dict={words}",
            f"-max_len={MAX_BYTES}",
            "-len_control=0",
            f"-use_value_profile={int(job.feedback is not Feedback.STATE)}",
            # A reload depends on the clock: without other workers there is nothing to load, and runs are the same.
            f"-reload={int(job.shared)}",
            "-rss_limit_mb=0",
            f"-timeout={NO_TIMEOUT}",
            "-handle_int=0",
            "-handle_term=0",
            "-print_final_stats=0",
            f"-artifact_prefix={job.scratch}/",
            *job.arguments,
            *given,
        ]
        atheris.Setup(arguments, driver.run, custom_mutator=driver.mutate, custom_crossover=driver.cross)
        atheris.Fuzz()
        raise EngineError("libFuzzer ended by itself")


ENGINE = AtherisEngine()
