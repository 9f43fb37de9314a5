"""The interface of engines: the job they get, the session that runs their programs, and loading by name."""

import hashlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from hvfuzz.engines.current_program import CurrentProgram
from hvfuzz.guest.format.binary import encode
from hvfuzz.guest.grammar.weight_profiles import WeightRotation, weight_profiles
from hvfuzz.guest.program.program import Program
from hvfuzz.guest.run.trace import Trace
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.emulated.state_features import SPACE
from hvfuzz.targets.harness import Harness
from hvfuzz.targets.target import Run, Target

PROGRESS_SECONDS: Final = 0.25
"""Least time between two progress reports."""
AUDIT_EVERY: Final = 256
"""A session audits one run in 256; a replay of a finding is always audited."""


MAX_BROKEN: Final = 32
"""Most internal errors that a session reports, each of another identity."""


class EngineError(Exception):
    """An engine is unknown or cannot run; the message says what is missing."""


class Feedback(StrEnum):
    """The coverage that a coverage-guided engine uses to recognise new inputs."""

    BYTECODE = "bytecode"
    """Branches of the hypervisor's code, which is instrumented."""
    STATE = "state"
    """State features: calls, refusals, steps, cache events."""
    BOTH = "both"


class Progress(NamedTuple):
    """Statistics of a session."""

    runs: int
    ops: int
    seconds: float
    features: int
    """Number of different features seen."""
    corpus: int
    """Number of inputs in the engine's corpus."""
    last_new: float
    """Seconds from the start to the last new feature."""
    profiles: int = 1
    """Number of weight profiles that have had a turn."""


class Sink(Protocol):
    """Receives findings and progress of a session. A call returns only when it has saved or sent what it got."""

    def found(self, finding: Finding, program: Program, progress: Progress) -> None:
        """`program` has a finding with a new identity."""
        ...

    def progress(self, progress: Progress) -> None:
        """The statistics of the session, every PROGRESS_SECONDS."""
        ...

    def broke(self, error: Exception, program: Program) -> None:
        """hvfuzz failed, not the emulated host, while it ran `program`. Called once for each `error_key`."""
        ...

    def ended(self) -> int:
        """An engine that cannot return is about to end the process; returns the exit status."""
        ...


class Job(NamedTuple):
    """The task of an engine, which ends after `seconds` or `runs`, whichever comes first (None: no limit)."""

    harness: Harness
    seeds: Sequence[bytes]
    corpus: Path
    """Folder in which a coverage-guided engine keeps inputs, each named after its SHA-1."""
    scratch: Path
    """Folder for the engine's other files."""
    shared: bool = False
    """Whether other workers write to `corpus`; the engine then reloads it regularly."""
    seed: int = 0
    seconds: float | None = None
    runs: int | None = None
    feedback: Feedback = Feedback.STATE
    arguments: Sequence[str] = ()
    """Additional arguments for the engine, such as flags of libFuzzer."""
    rotate: bool = False
    """Whether to rotate through weight profiles; otherwise the harness's weights apply all the time."""
    avoid: frozenset[str] = frozenset()
    """Programs that are not run, by `program_key`: each ended a process that ran it."""


def program_key(data: bytes) -> str:
    """A short name for the program encoded as `data`."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def error_key(error: BaseException) -> str:
    """Identity of an internal error: its type, and the function that raised it."""
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        place = f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"
    return f"{type(error).__name__} in {place}"


class Engine(Protocol):
    """A strategy for choosing programs."""

    def fuzz(self, job: Job, session: "Session") -> None:
        """Run programs on `session` until it raises `BudgetSpent`, or until the engine has no more programs."""
        ...


class BudgetSpent(BaseException):
    """The session's time or runs are used up, or it was stopped. Not an Exception, so that engines do not catch it."""


class Session:
    """Runs programs on a target, keeps statistics, and reports each new identity of a finding to the sink once.

    Findings do not end a session; those with a known identity are ignored. Its time begins with its first program.
    """

    def __init__(self, target: Target, job: Job, sink: Sink, current: CurrentProgram | None = None) -> None:
        """`current` records the program under way, for a parent that must know it if this process dies."""
        self.target: Final = target
        self.job: Final = job
        self.sink: Final = sink
        self._current: Final = current
        self.runs = 0
        self.ops = 0
        self.features = 0
        self.corpus: Callable[[], int] = lambda: len(job.seeds)
        """Returns the number of inputs in the engine's corpus; an engine may replace it."""
        self.known: set[str] = set()
        self._rotation: Final = (
            WeightRotation(weight_profiles(target.catalogue, job.harness.weights), job.seed) if job.rotate else None
        )
        self._seen = bytearray(SPACE)
        self._last_new = 0.0
        self._start: float | None = None
        self._next_report = 0.0
        self._stopped = False
        self._errors: Final[set[str]] = set()
        self.broken = 0
        """Programs in which hvfuzz itself failed."""

    def stop(self) -> None:
        """Make the next `run` raise `BudgetSpent`; may be called from a signal handler."""
        self._stopped = True

    def seconds(self) -> float:
        """Time since the first program began."""
        return 0.0 if self._start is None else time.monotonic() - self._start

    def progress(self) -> Progress:
        """The current statistics."""
        profiles = 1 if self._rotation is None else self._rotation.profiles
        return Progress(self.runs, self.ops, self.seconds(), self.features, self.corpus(), self._last_new, profiles)

    def weights(self) -> Mapping[str, int]:
        """The weights with which an engine generates or mutates its next program."""
        return self.job.harness.weights if self._rotation is None else self._rotation.at(self.runs).weights

    def run(self, program: Program, unit: bytes | None = None) -> Run:
        """Execute `program`, or raise `BudgetSpent` if the budget is used up. `unit` is its byte form, if known."""
        runs = self.runs
        if self._stopped or (self.job.runs is not None and runs >= self.job.runs):
            raise BudgetSpent
        self._check_time()
        current = self._current
        if current is not None:
            data = encode(program, self.target.catalogue) if unit is None else unit
            if self.job.avoid and program_key(data) in self.job.avoid:
                return Run(Trace(), (), (), 0)
            current.begin(data)
        try:
            result = self.target.run(program, audit=not runs % AUDIT_EVERY)
        except Exception as error:
            if current is not None:
                current.end()
            # One program is set aside; what the others find must not depend on it.
            self.runs = runs + 1
            name = error_key(error)
            self.broken += 1
            if name not in self._errors and len(self._errors) < MAX_BROKEN:
                self._errors.add(name)
                self.sink.broke(error, program)
            return Run(Trace(), (), (), 0)
        if current is not None:
            current.end()
        self.runs = runs + 1
        self.ops += result.ops
        seen = self._seen
        for feature in result.features:
            if not seen[feature]:
                seen[feature] = 1
                self.features += 1
                self._last_new = self.seconds()
        for finding in result.findings:
            if finding.identity not in self.known:
                self.known.add(finding.identity)
                self.sink.found(finding, program, self.progress())
        return result

    def prepare(self) -> None:
        """Report that an engine makes progress before its first program; the engine calls this again and again."""
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + PROGRESS_SECONDS
            self.sink.progress(self.progress())

    def _check_time(self) -> None:
        """Raise `BudgetSpent` if the time is used up; report progress if it is due."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        if self.job.seconds is not None and now - self._start >= self.job.seconds:
            raise BudgetSpent
        if now >= self._next_report:
            self._next_report = now + PROGRESS_SECONDS
            self.sink.progress(self.progress())
