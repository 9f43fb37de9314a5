"""The function that calls all listeners of an event."""

from __future__ import annotations

from hvfuzz.oracles.framework.listeners import nothing, together


def test_together() -> None:
    heard: list[tuple[str, int]] = []
    assert together("frame_freed", []) is nothing
    one = together("frame_freed", [lambda hfn: heard.append(("a", hfn))])
    two = together("frame_freed", [lambda hfn: heard.append(("b", hfn)), one])
    two(7)
    assert heard == [("b", 7), ("a", 7)]
