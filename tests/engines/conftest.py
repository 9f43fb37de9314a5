"""Fixtures for the tests of engines: a session whose sink keeps everything."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from hvfuzz.bugs import find_bug
from hvfuzz.engines.all_engines import load_engine
from hvfuzz.engines.engine import BudgetSpent, Job, Progress, Session
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import find_harness
from hvfuzz.targets.target import Run


class Kept:
    """A sink that keeps all events."""

    def __init__(self) -> None:
        self.findings: list[tuple[Finding, Program, Progress]] = []
        self.reports: list[Progress] = []
        self.errors: list[tuple[Exception, Program]] = []

    def found(self, finding: Finding, program: Program, progress: Progress) -> None:
        self.findings.append((finding, program, progress))

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)

    def broke(self, error: Exception, program: Program) -> None:
        self.errors.append((error, program))

    def ended(self) -> int:
        return 0


class Recording(EmulatedTarget):
    """A target that keeps the programs it ran."""

    programs: list[Program]

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        self.programs.append(program)
        return super().run(program, audit=audit, digest=digest)


class Outcome(NamedTuple):
    """A session, with what its sink got and the programs it ran."""

    session: Session
    sink: Kept
    programs: list[Program]

    @property
    def identities(self) -> list[str]:
        return [finding.identity for finding, _, _ in self.sink.findings]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Callable[..., Outcome]]:
    """session(bug=..., **job) returns a session and its sink, without an engine."""
    targets = []

    def make(bug: str | None = None, harness: str = "hypercalls", **given: object) -> Outcome:
        target = Recording(None if bug is None else find_bug(bug))
        target.programs = []
        targets.append(target)
        given = {"seeds": []} | given
        job = Job(find_harness(harness), corpus=tmp_path / "corpus", scratch=tmp_path / "scratch", **given)  # type: ignore[arg-type]
        sink = Kept()
        return Outcome(Session(target, job, sink), sink, target.programs)

    yield make
    for target in targets:
        target.close()


@pytest.fixture
def fuzz(session: Callable[..., Outcome]) -> Iterator[Callable[..., Outcome]]:
    """fuzz(engine, bug=..., **job) runs an engine in this process until its budget is spent."""

    def run(engine: str, **given: object) -> Outcome:
        outcome = session(**given)
        with suppress(BudgetSpent):
            load_engine(engine).fuzz(outcome.session.job, outcome.session)
        return outcome

    yield run
    set_hypothesis_home_dir(None)  # the engine changed it for the whole process
