"""The coverage-guided engine: libFuzzer through atheris, with hvfuzz's mutator, crossover, dictionary and features.

The only module that imports atheris. It uses two undocumented functions, `_reserve_counter` and `_trace_branch`, in
`_Counters` only; without them the engine warns and runs without state feedback.
"""

import atexit
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
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.engines.engine import BudgetSpent, EngineError, Feedback, Job, Session
from hvfuzz.engines.libfuzzer_units import Units
from hvfuzz.guest.format.binary import longest_program
from hvfuzz.guest.format.dictionary import dictionary
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.mutate.mutation import crossover, mutate
from hvfuzz.guest.program.program import MAX_OPS
from hvfuzz.targets.emulated.state_features import SPACE

NEW_PROGRAMS: Final = 0.6
"""Fraction of mutator calls that generate a fresh program. Generated programs contain idioms, and find most of the
planted bugs; mutation finds what no idiom covers."""
BYTE_MUTATIONS: Final = 0.06
"""Fraction of mutator calls that use libFuzzer's own mutations of bytes; the rest mutate ops."""
CROSSOVERS: Final = 0.2
"""Fraction of crossover calls that cross programs over; the rest mutate."""
USUAL_OPS: Final = 40
"""Mutation makes no program longer than this, unless it was longer already."""
MAX_BYTES: Final = 4096
"""Mutation makes no unit longer than this, unless it was longer already."""
NO_TIMEOUT: Final = 1_000_000
"""libFuzzer's timeout in seconds. The target's watchdog reports ops that do not end. Atheris takes 0 as 1 second."""


class _Counters:
    """State features as 8-bit counters of libFuzzer, which reads them after each run."""

    def __init__(self) -> None:
        reserve = getattr(atheris, "_reserve_counter", None)
        self._hit: Callable[[int], None] | None = None
        self._numbers: Final[list[int]] = []
        if reserve is None or not hasattr(atheris, "_trace_branch"):
            print(
                "hvfuzz: warning: this atheris cannot reserve counters: no state feedback",
                file=sys.stderr,
            )
            return
        self._numbers.extend(reserve() for _ in range(SPACE))

    def hit(self, features: Iterable[int]) -> None:
        """Count each feature once."""
        numbers = self._numbers
        if not numbers:
            return
        hit = self._hit
        if hit is None:
            # `Fuzz` rebinds this name. The function bound before that has no effect, so look it up at the first run.
            hit = self._hit = atheris._trace_branch
        for feature in features:
            hit(numbers[feature])


def _functions(holder: Any, package: str) -> Iterable[FunctionType]:
    """All functions and methods defined in `package` that the module or class `holder` contains."""
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
    """Instrument the bytecode of the hypervisor package; returns the number of functions.

    Each function is instrumented separately. The import hook of atheris selects top-level packages only, so it would
    also instrument the oracles and the mutator.
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
    """The callbacks of libFuzzer: run, mutate and cross over, on one session."""

    def __init__(self, job: Job, session: Session, units: Units) -> None:
        self._session: Final = session
        self._units: Final = units
        self._rng: Final = random.Random(job.seed)
        self._counters: Final = _Counters() if job.feedback is not Feedback.BYTECODE else None

    def run(self, data: bytes) -> None:
        """Run a unit; ends the process when the budget is spent."""
        try:
            result = self._session.run(self._units.program(data), data)
        except BudgetSpent:
            # libFuzzer has written its files already; it would report an exception as a crash.
            sink = self._session.sink
            sink.progress(self._session.progress())
            status = sink.ended()
            _save_measurements()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        if self._counters is not None:
            self._counters.hit(result.features)

    def mutate(self, data: bytes, limit: int, seed: int) -> bytes:
        """libFuzzer's custom mutator; the result is canonical, so all units of the corpus are."""
        rng = self._rng
        rng.seed(seed)
        limit = min(limit, max(MAX_BYTES, len(data)))
        try:
            return self._mutated(data, limit, rng)
        except Exception:
            return _report_failure(data)

    def _mutated(self, data: bytes, limit: int, rng: random.Random) -> bytes:
        units = self._units
        choice = rng.random()
        if choice < NEW_PROGRAMS:
            return units.fit(generate(rng, units.catalogue, weights=self._session.weights()), limit, MAX_OPS)
        program = units.program(data)
        # Programs that grow become slow and repetitive, so growth is limited; a long seed keeps its length.
        ops = max(USUAL_OPS, len(program.ops))
        if choice < NEW_PROGRAMS + BYTE_MUTATIONS:
            return units.fit(units.program(atheris.Mutate(data, limit)), limit, ops)
        return units.fit(mutate(program, rng, units.catalogue, self._session.weights()), limit, ops)

    def cross(self, left: bytes, right: bytes, limit: int, seed: int) -> bytes:
        """libFuzzer's custom crossover; libFuzzer asks for it every other time, so most calls mutate instead."""
        rng = self._rng
        rng.seed(seed)
        limit = min(limit, max(MAX_BYTES, len(left), len(right)))
        try:
            if rng.random() >= CROSSOVERS:
                return self._mutated(left, limit, rng)
            one, other = self._units.program(left), self._units.program(right)
            ops = max(USUAL_OPS, len(one.ops), len(other.ops))
            return self._units.fit(crossover(one, other, rng, self._units.catalogue), limit, ops)
        except Exception:
            return _report_failure(left)


def _report_failure(data: bytes) -> bytes:
    """Print the exception of a mutator, and return `data` unchanged.

    An exception that leaves a mutator makes atheris hang, or end with a misleading message.
    """
    traceback.print_exc()
    return data


def _save_measurements() -> None:
    """Do what a process does at its end, since this one ends at once: functions of atexit, data of coverage.py."""
    coverage = sys.modules.get("coverage")
    current = None if coverage is None else coverage.Coverage.current()
    if current is not None:
        current.stop()
        current.save()
    atexit._run_exitfuncs()


def _files_in(folder: Path) -> int:
    """Number of files in `folder`; 0 if somebody deleted it."""
    try:
        return sum(1 for _ in os.scandir(folder))
    except OSError:
        return 0


def _utf8_path(folder: Path) -> Path:
    """Make `folder`; returns its path or, if that is not UTF-8 (atheris takes no other), a path by an open handle."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        return Path(f"/proc/self/fd/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY)}")
    return folder


class AtherisEngine:
    """libFuzzer through atheris. `atheris.Fuzz` does not return, so the process ends with it."""

    def fuzz(self, job: Job, session: Session) -> None:
        """See `Engine.fuzz`; ends the process. Findings are saved as they come."""
        units = Units(session.target.catalogue)
        driver = _Driver(job, session, units)
        # Folders with names for libFuzzer.
        job = job._replace(corpus=_utf8_path(job.corpus), scratch=_utf8_path(job.scratch))
        if job.feedback is not Feedback.STATE:
            instrument_hypervisor()
        corpus = job.corpus
        seeds = units.write_seeds(job, session.prepare)
        session.corpus = lambda: len(seeds) + _files_in(corpus)
        # Named after the worker's seed: without seeds, each worker starts with different programs.
        listed = job.scratch / f"{job.harness.name}-{job.seed}.seeds"
        write_atomically(listed, ",".join(map(str, seeds)).encode())
        # As a list, since the order of files in a folder differs between machines.
        given = [f"-seed_inputs=@{listed}", str(corpus)]
        if any("," in str(path) for path in seeds):  # a comma separates names in the list
            given = [str(corpus), str(seeds[0].parent)]
        words = job.scratch / f"{job.harness.name}.dict"
        write_atomically(words, dictionary(units.catalogue).encode())
        arguments = [
            "hvfuzz",
            f"-seed={job.seed & 0x7FFF_FFFF or 1}",
            f"-dict={words}",
            # libFuzzer cuts off the rest of a longer seed or unit without a word.
            f"-max_len={longest_program(units.catalogue)}",
            "-len_control=0",
            f"-use_value_profile={int(job.feedback is not Feedback.STATE)}",
            # Reloads depend on the clock. Without other workers there is nothing to load, and runs stay deterministic.
            f"-reload={int(job.shared)}",
            "-rss_limit_mb=0",
            f"-timeout={NO_TIMEOUT}",
            "-handle_int=0",
            "-handle_term=0",
            # A signal that ends the process is the target's doing: the parent must see which. Python ignores SIGXFSZ.
            *(f"-handle_{name}=0" for name in ("segv", "bus", "abrt", "ill", "fpe", "xfsz")),
            "-print_final_stats=0",
            f"-artifact_prefix={job.scratch}/",
            *job.arguments,
            *given,
        ]
        atheris.Setup(arguments, driver.run, custom_mutator=driver.mutate, custom_crossover=driver.cross)
        atheris.Fuzz()
        raise EngineError("libFuzzer returned before the budget was spent")


ENGINE = AtherisEngine()
