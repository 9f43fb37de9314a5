"""The coverage-guided engine: libFuzzer through atheris, with our mutator, crossover, dictionary and features.

The only module that imports atheris. What it takes from there beyond the documented API (`_reserve_counter`,
`_trace_branch`) is used in `_Counters` alone, which falls back to no state features with a warning.
"""

import hashlib
import os
import pkgutil
import random
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from types import FunctionType
from typing import Any, Final

import atheris

import hvfuzz.hypervisor
from hvfuzz.engines.engine import BudgetSpent, EngineError, Feedback, Job, Session, write_whole
from hvfuzz.guest.binary import decode, encode
from hvfuzz.guest.dictionary import dictionary
from hvfuzz.guest.mutation import crossover, mutate
from hvfuzz.guest.program import Program

COUNTERS: Final = 1 << 14
"""libFuzzer's 8-bit counters for state features; a power of two. It scans them all after every run."""
OWN_MUTATIONS: Final = 7
"""Of 8 mutations, how many are ours, on ops; the others are libFuzzer's own, on bytes (with its compare table)."""
MAX_BYTES: Final = 4096


class _Counters:
    """State features as libFuzzer's counters."""

    def __init__(self) -> None:
        reserve = getattr(atheris, "_reserve_counter", None)
        self._hit: Callable[[int], None] | None = getattr(atheris, "_trace_branch", None)
        if reserve is None or self._hit is None:
            self._hit = None
            print("hvfuzz: this atheris has no counters to reserve: no state feedback", file=sys.stderr)
            return
        self._numbers = [reserve() for _ in range(COUNTERS)]

    def hit(self, features: Iterable[int]) -> None:
        """Count each feature once."""
        hit, numbers = self._hit, self._numbers
        if hit is not None:
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


class AtherisEngine:
    """libFuzzer drives; this process ends with it, since `atheris.Fuzz` does not return."""

    def fuzz(self, job: Job, session: Session) -> None:
        """Fuzz until the budget is spent, then end the process with status 0 (findings are saved as they come)."""
        counters = _Counters() if job.feedback is not Feedback.BYTECODE else None
        if job.feedback is not Feedback.STATE:
            instrument_hypervisor()
        catalogue = session.target.catalogue
        weights = job.harness.weights
        rng = random.Random(job.seed)

        def finish() -> None:
            session.sink.progress(session.progress())
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # libFuzzer has its files written; leaving by an exception would look like a crash

        def test_one_input(data: bytes) -> None:
            try:
                result = session.run(decode(data, catalogue))
            except BudgetSpent:
                finish()
                return
            if counters is not None:
                counters.hit(result.features)

        def fit(program: Program, limit: int) -> bytes:
            data = encode(program, catalogue)
            while len(data) > limit and program.ops:
                program = program._replace(ops=program.ops[: len(program.ops) // 2])
                data = encode(program, catalogue)
            return data[:limit]

        def custom_mutator(data: bytes, limit: int, seed: int) -> bytes:
            rng.seed(seed)
            if rng.randrange(8) >= OWN_MUTATIONS:
                mutated: bytes = atheris.Mutate(data, limit)
                return mutated
            return fit(mutate(decode(data, catalogue), rng, catalogue, weights), limit)

        def custom_crossover(left: bytes, right: bytes, limit: int, seed: int) -> bytes:
            rng.seed(seed)
            return fit(crossover(decode(left, catalogue), decode(right, catalogue), rng, catalogue), limit)

        corpus = job.corpus
        corpus.mkdir(parents=True, exist_ok=True)
        for seed in job.seeds:
            data = encode(decode(seed, catalogue), catalogue)
            unit = corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()
            if not unit.exists():
                write_whole(unit, data)
        words = corpus.parent / f"{job.harness.name}.dict"
        write_whole(words, dictionary(catalogue).encode())
        arguments = [
            sys.argv[0],
            f"-seed={job.seed & 0x7FFF_FFFF or 1}",
            f"-dict={words}",
            f"-max_len={MAX_BYTES}",
            "-len_control=0",
            "-use_value_profile=1",
            "-reload=1",
            "-rss_limit_mb=0",
            f"-artifact_prefix={corpus.parent}/",
            *job.arguments,
            str(corpus),
        ]
        atheris.Setup(arguments, test_one_input, custom_mutator=custom_mutator, custom_crossover=custom_crossover)
        atheris.Fuzz()
        raise EngineError("libFuzzer ended by itself")


ENGINE = AtherisEngine()
