"""The function that calls all listeners of an event."""

from __future__ import annotations

import pytest

from hvfuzz.oracles.framework.listeners import nothing, together


def test_together() -> None:
    heard: list[tuple[str, int]] = []
    assert together("frame_freed", [], fail) is nothing
    one = together("frame_freed", [(None, lambda hfn: heard.append(("a", hfn)))], fail)
    two = together("frame_freed", [("b", lambda hfn: heard.append(("b", hfn))), (None, one)], fail)
    two(7)
    assert heard == [("b", 7), ("a", 7)]


def test_a_listener_that_fails_stops_no_other() -> None:
    heard: list[object] = []

    def broken(hfn: int) -> None:
        raise KeyError(hfn)

    together(
        "frame_freed",
        [("first", broken), ("second", heard.append), ("third", broken)],
        lambda name, error: heard.append((name, str(error))),
    )(7)
    assert heard == [("first", "7"), 7, ("third", "7")]
    with pytest.raises(KeyError):
        together("frame_freed", [(None, broken)], fail)(7)


def fail(name: str, error: Exception) -> None:
    """No listener of the test fails."""
    raise AssertionError(name) from error
