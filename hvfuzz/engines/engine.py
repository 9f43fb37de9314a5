"""What every engine shares: a job, a session that runs programs and passes findings on, and the engines by name."""

import importlib
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.harness import Harness
from hvfuzz.targets.state_features import SPACE
from hvfuzz.targets.target import Run, Target

ENGINES: Final = ("atheris", "hypothesis", "random", "replay")
PROGRESS_SECONDS: Final = 0.25
AUDIT_EVERY: Final = 256
"""While fuzzing, one run in so many is audited in full; replay audits every run."""


class EngineError(Exception):
    """An engine that cannot run here: what is missing."""


class Feedback(StrEnum):
    """What tells a coverage-guided engine that an input is new."""

    BYTECODE = "bytecode"
    """Branches of the hypervisor's own code, instrumented."""
    STATE = "state"
    """What the hypervisor did: calls, refusals, steps, cache events."""
    BOTH = "both"


class Progress(NamedTuple):
    """How far a session is; `last_new` is the time in seconds at which the last new feature was seen."""

    runs: int
    ops: int
    seconds: float
    features: int
    corpus: int
    last_new: float


class Sink(Protocol):
    """Who hears what a session finds. Each call must have done its work (saved, sent) when it returns."""

    def found(self, finding: Finding, program: Program, progress: Progress) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def broke(self, error: Exception, program: Program) -> None:
        """hvfuzz itself, and not the host that it watches, failed over `program`."""
        ...

    def ended(self) -> int:
        """An engine that cannot return is about to end the process: the exit status."""
        ...


class Job(NamedTuple):
    """What an engine is to do; it ends after `seconds` or `runs`, whichever is first (None: no bound)."""

    harness: Harness
    seeds: Sequence[bytes]
    corpus: Path
    """Folder that a coverage-guided engine keeps inputs in (by SHA-1)."""
    scratch: Path
    """Folder for what the engine needs besides."""
    shared: bool = False
    """Whether other workers write to that folder: the engine then loads what they find as it comes."""
    seed: int = 0
    seconds: float | None = None
    runs: int | None = None
    feedback: Feedback = Feedback.STATE
    arguments: Sequence[str] = ()
    """More arguments for the engine itself (libFuzzer's flags)."""


class Engine(Protocol):
    """A way to choose programs."""

    def fuzz(self, job: Job, session: "Session") -> None:
        """Run programs on `session` until it raises `BudgetSpent`, or the engine has no more to offer."""
        ...


class BudgetSpent(BaseException):
    """The session's time or runs are used up, or it was told to stop. Not an Exception: engines let it pass."""


class Session:
    """Runs programs on a target, counts, and hands each new identity of a finding to the sink once.

    A finding does not end anything: known identities are passed over, and the engine goes on.
    """

    def __init__(self, target: Target, job: Job, sink: Sink) -> None:
        self.target: Final = target
        self.job: Final = job
        self.sink: Final = sink
        self.runs = 0
        self.ops = 0
        self.features = 0
        self.corpus: Callable[[], int] = lambda: len(job.seeds)
        """How many inputs the engine has to choose from."""
        self.known: set[str] = set()
        self._seen = bytearray(SPACE)
        self._last_new = 0.0
        self._start = time.monotonic()
        self._next_report = 0.0
        self._stopped = False

    def stop(self) -> None:
        """Have the next `run` raise `BudgetSpent`; may be called from a signal handler."""
        self._stopped = True

    def progress(self) -> Progress:
        """The figures as of now."""
        seconds = time.monotonic() - self._start
        return Progress(self.runs, self.ops, seconds, self.features, self.corpus(), self._last_new)

    def run(self, program: Program) -> Run:
        """Execute `program`; raises `BudgetSpent` before that once the budget is used up."""
        runs = self.runs
        if self._stopped or (self.job.runs is not None and runs >= self.job.runs):
            raise BudgetSpent
        self._look()
        try:
            result = self.target.run(program, audit=not runs % AUDIT_EVERY)
        except Exception as error:
            self.sink.broke(error, program)
            raise
        self.runs = runs + 1
        self.ops += result.ops
        seen = self._seen
        for feature in result.features:
            if not seen[feature]:
                seen[feature] = 1
                self.features += 1
                self._last_new = time.monotonic() - self._start
        for finding in result.findings:
            if finding.identity not in self.known:
                self.known.add(finding.identity)
                self.sink.found(finding, program, self.progress())
        return result

    def _look(self) -> None:
        """Look at the clock: is the time used up, is a report due?"""
        seconds = time.monotonic() - self._start
        if self.job.seconds is not None and seconds >= self.job.seconds:
            raise BudgetSpent
        if seconds >= self._next_report:
            self._next_report = seconds + PROGRESS_SECONDS
            self.sink.progress(self.progress())


def load_engine(name: str) -> Engine:
    """The engine called `name`; raises `EngineError` if there is none or its package is missing."""
    if name not in ENGINES:
        near = get_close_matches(name.lower(), ENGINES, 1, 0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise EngineError(f"no engine {name!r}{hint} (known: {', '.join(ENGINES)})")
    try:
        module = importlib.import_module(f"hvfuzz.engines.{name}")
    except ImportError as error:
        raise EngineError(f"engine {name!r} needs the package {error.name!r}, which is not installed") from error
    engine: Engine = module.ENGINE
    return engine
