"""Turns: an audited run counts lines, and leaves no trace function behind."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from hvfuzz.oracles.accounting import turns

RUN = "memory.populate(dom1, first=0x1f0, count=8)"


@pytest.fixture
def untraced() -> None:
    """The test itself must not be traced, by a debugger or for coverage."""
    if sys.gettrace() is not None:
        pytest.skip("something else traces this test")


def test_the_hook_is_removed_after_each_exit(rig: Any, untraced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LINES", 0)
    monkeypatch.setattr(turns, "LINES_PER_UNIT", 0)
    rig.suite.watch_closely(True)
    rig.run(RUN)
    assert rig.rules == ["work/turns"]
    assert sys.gettrace() is None


def test_the_hook_is_removed_after_an_exception(rig: Any, untraced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("the host fails")

    monkeypatch.setattr("hvfuzz.hypervisor.core.dispatch.commit_long", fail)
    rig.suite.watch_closely(True)
    assert rig.run(RUN).stopped
    rig.restore()
    assert sys.gettrace() is None


def test_the_hook_of_a_debugger_stays(rig: Any, untraced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LINES", 0)
    monkeypatch.setattr(turns, "LINES_PER_UNIT", 0)

    def debugger(frame: FrameType, event: str, argument: Any) -> None:
        return None

    rig.suite.watch_closely(True)
    sys.settrace(debugger)
    try:
        rig.run(RUN)
        assert sys.gettrace() is debugger
    finally:
        sys.settrace(None)
    assert rig.rules == []
