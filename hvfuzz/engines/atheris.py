"""The coverage-guided engine: libFuzzer through atheris, with our mutator, crossover, dictionary and features.

The only module that imports atheris. What it takes from there beyond the documented API (`_reserve_counter`,
`_trace_branch`) is used in `_Counters` alone, which falls back to no state features with a warning.
"""

import hashlib
import os
import pkgutil
import random
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import atheris

import hvfuzz.hypervisor
from hvfuzz.engines.engine import BudgetSpent, EngineError, Feedback, Job, Session, write_whole
from hvfuzz.guest.binary import decode, encode
from hvfuzz.guest.dictionary import dictionary
from hvfuzz.guest.generation import generate
from hvfuzz.guest.mutation import crossover, mutate
from hvfuzz.guest.program import Program

COUNTERS: Final = 1 << 14
"""libFuzzer's 8-bit counters for state features; a power of two. It scans them all after every run."""
NEW_PROGRAMS: Final = 0.4
"""How many of all mutations are no mutations but new programs. Planted bugs are found in a fraction of the runs that it
takes without (each of five bugs in 4 of 4 trials of 50,000 ops, against 13 of 20)."""
BYTE_MUTATIONS: Final = 0.06
"""How many are libFuzzer's own, on bytes, with its dictionary; the rest are ours, on ops."""
CROSSOVERS: Final = 0.2
"""How many of the crossovers that libFuzzer asks for are."""
USUAL_OPS: Final = 40
"""Mutation makes no program longer than this."""
MAX_BYTES: Final = 4096
NO_TIMEOUT: Final = 1_000_000
"""Seconds. The target's own watchdog makes a finding of an op that does not end; 0 would mean one second to atheris."""
FIRST_PROGRAMS: Final = 32
"""How many generated programs a campaign without seeds begins with."""
KEPT_PROGRAMS: Final = 4096
"""Programs kept decoded."""


class _Counters:
    """State features as libFuzzer's counters."""

    def __init__(self) -> None:
        reserve = getattr(atheris, "_reserve_counter", None)
        self._hit: Callable[[int], None] | None = None
        self._numbers: Final[list[int]] = []
        if reserve is None or not hasattr(atheris, "_trace_branch"):
            print("hvfuzz: this atheris has no counters to reserve: no state feedback", file=sys.stderr)
            return
        self._numbers.extend(reserve() for _ in range(COUNTERS))

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
            hit(numbers[feature & (COUNTERS - 1)])


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

    def __init__(self, job: Job, session: Session) -> None:
        self._session: Final = session
        self._catalogue: Final = session.target.catalogue
        self._weights: Final = job.harness.weights
        self._rng: Final = random.Random(job.seed)
        self._counters: Final = _Counters() if job.feedback is not Feedback.BYTECODE else None
        self._decoded: Final[dict[bytes, Program]] = {}

    def _decode(self, data: bytes) -> Program:
        """`decode`, with the programs of late kept: a mutated one is decoded for its run, and to be mutated again."""
        program = self._decoded.get(data)
        if program is None:
            if len(self._decoded) >= KEPT_PROGRAMS:
                self._decoded.clear()
            program = self._decoded[data] = decode(data, self._catalogue)
        return program

    def _fit(self, program: Program, limit: int, ops: int) -> bytes:
        """The canonical bytes of `program`, or of as many of its first `ops` ops as fit."""
        while True:
            program = program._replace(ops=program.ops[:ops])
            data = encode(program, self._catalogue)
            if len(data) <= limit or not ops:
                break
            ops = len(program.ops) * 3 // 4
        if len(data) > limit:
            return b""
        if len(self._decoded) < KEPT_PROGRAMS:
            self._decoded[data] = program
        return data

    def run(self, data: bytes) -> None:
        """One run; the process ends here once the budget is spent."""
        try:
            result = self._session.run(self._decode(data))
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
        choice = rng.random()
        if choice < NEW_PROGRAMS:
            return self._fit(generate(rng, self._catalogue, kinds=self._weights), limit, USUAL_OPS)
        program = self._decode(data)
        # What has grown is slow, and mostly the same again; a long seed has its reasons.
        ops = max(USUAL_OPS, len(program.ops))
        if choice < NEW_PROGRAMS + BYTE_MUTATIONS:
            return self._fit(decode(atheris.Mutate(data, limit), self._catalogue), limit, ops)
        return self._fit(mutate(program, rng, self._catalogue, self._weights), limit, ops)

    def cross(self, left: bytes, right: bytes, limit: int, seed: int) -> bytes:
        """libFuzzer's custom crossover. It asks for one every other time, too often: the rest are mutations."""
        rng = self._rng
        rng.seed(seed)
        try:
            if rng.random() >= CROSSOVERS:
                return self._mutated(left, limit, rng)
            one, other = self._decode(left), self._decode(right)
            ops = max(USUAL_OPS, len(one.ops), len(other.ops))
            return self._fit(crossover(one, other, rng, self._catalogue), limit, ops)
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
        driver = _Driver(job, session)
        if job.feedback is not Feedback.STATE:
            instrument_hypervisor()
        corpus = job.corpus
        for folder in (corpus, job.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        seeds = self._write_seeds(job, session)
        session.corpus = lambda: len(seeds) + sum(1 for _ in os.scandir(corpus))
        listed = job.scratch / f"{job.harness.name}.seeds"
        write_whole(listed, ",".join(map(str, seeds)).encode())
        words = job.scratch / f"{job.harness.name}.dict"
        write_whole(words, dictionary(session.target.catalogue).encode())
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
            # By a list and not as a folder: the order of files in a folder is another on every machine.
            f"-seed_inputs=@{listed}",
            f"-artifact_prefix={job.scratch}/",
            *job.arguments,
            str(corpus),
        ]
        atheris.Setup(arguments, driver.run, custom_mutator=driver.mutate, custom_crossover=driver.cross)
        atheris.Fuzz()
        raise EngineError("libFuzzer ended by itself")

    def _write_seeds(self, job: Job, session: Session) -> list[Path]:
        """Write the seeds as units; where there are none, a few programs as the generator makes them. Their paths."""
        catalogue = session.target.catalogue
        programs = [decode(seed, catalogue) for seed in job.seeds]
        if not programs:
            rng = random.Random(job.seed)
            programs = [generate(rng, catalogue, kinds=job.harness.weights) for _ in range(FIRST_PROGRAMS)]
        folder = job.scratch / f"{job.harness.name}-seeds"
        folder.mkdir(exist_ok=True)
        paths = []
        for program in programs:
            data = encode(program, catalogue)
            path = folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()
            if not path.exists():
                write_whole(path, data)
            paths.append(path)
        return paths


ENGINE = AtherisEngine()
