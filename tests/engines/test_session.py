"""The session: budgets, statistics, each identity reported once; and atomic file writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvfuzz.engines.all_engines import load_engine
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.engines.engine import BudgetSpent, EngineError
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.program import Program

POLL = "# hvp 1\nworld pair\nsched.poll(dom1, ports=[5], count=1, timeout=0)\n"


def poll(outcome: Any) -> Program:
    """A program that triggers the bug of XSA-221."""
    return parse(POLL, outcome.session.target.catalogue)


def test_the_budget_of_runs_is_kept_exactly(session: Callable[..., Any]) -> None:
    outcome = session(runs=3)
    for _ in range(3):
        outcome.session.run(poll(outcome))
    with pytest.raises(BudgetSpent):
        outcome.session.run(poll(outcome))
    assert outcome.session.runs == len(outcome.programs) == 3
    assert outcome.session.ops == 3


def test_the_budget_of_time_is_kept(session: Callable[..., Any]) -> None:
    outcome = session(seconds=0.05)
    program = poll(outcome)
    endless = iter(lambda: outcome.session.run(program), None)
    with pytest.raises(BudgetSpent):
        list(endless)
    assert outcome.session.progress().seconds < 5


def test_time_begins_with_the_first_program(session: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before, such as reading seeds, takes nothing from the budget."""
    outcome = session(seconds=10.0)
    program = poll(outcome)
    now = 1000.0
    monkeypatch.setattr("hvfuzz.engines.engine.time.monotonic", lambda: now)
    outcome.session.prepare()
    assert [each.runs for each in outcome.sink.reports] == [0], "it tells that it is alive"
    now = 2000.0
    outcome.session.run(program)
    now = 2009.0
    outcome.session.run(program)
    assert outcome.session.progress().seconds == 9.0
    now = 2010.0
    with pytest.raises(BudgetSpent):
        outcome.session.run(program)


def test_engines_do_not_catch_the_end_of_the_budget() -> None:
    assert not issubclass(BudgetSpent, Exception)


def test_a_session_can_be_stopped(session: Callable[..., Any]) -> None:
    outcome = session()
    outcome.session.run(poll(outcome))
    outcome.session.stop()
    with pytest.raises(BudgetSpent):
        outcome.session.run(poll(outcome))


def test_an_identity_is_reported_once_and_the_session_goes_on(session: Callable[..., Any]) -> None:
    outcome = session(bug="xsa-221")
    for _ in range(5):
        outcome.session.run(poll(outcome))
    assert outcome.identities == ["host_memory/null/sched.poll"]
    assert outcome.session.runs == 5
    assert outcome.sink.findings[0][1] == poll(outcome)


def test_features_are_counted_once(session: Callable[..., Any]) -> None:
    outcome = session()
    outcome.session.run(poll(outcome))
    first = outcome.session.features
    assert first > 0
    outcome.session.run(poll(outcome))
    assert outcome.session.features == first


def test_an_internal_error_names_its_program(session: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = session()

    def fail(*args: object, **given: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(outcome.session.target, "run", fail)
    for _ in range(3):
        assert outcome.session.run(poll(outcome)).ops == 0
    assert outcome.sink.errors[0][1] == poll(outcome)
    assert len(outcome.sink.errors) == 1, "one for each identity"
    assert outcome.session.runs == outcome.session.broken == 3, "the session goes on"


def test_an_unknown_engine_gets_a_suggestion() -> None:
    with pytest.raises(EngineError, match="did you mean 'hypothesis'"):
        load_engine("hypotesis")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_names_the_path_of_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "file"
    with pytest.raises(OSError, match="No such file") as raised:
        write_atomically(path, b"")
    assert raised.value.filename == str(path)
