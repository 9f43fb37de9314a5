"""Ticks: the clock of all deadlines that a guest can see. Only counted reads of the clock tell more.

A deadline that is not a whole tick would be a clock as fine as itself: the guest sees when it is over.
"""

from __future__ import annotations

from hvfuzz.abi.limits import CLOCK_TICK


def tick_start(cycles: int) -> int:
    """The beginning of the tick in which `cycles` lies."""
    return cycles - cycles % CLOCK_TICK


def whole_ticks(cycles: int) -> int:
    """`cycles` rounded up to whole ticks."""
    return tick_start(cycles + CLOCK_TICK - 1)


def deadline(now: int, cycles: int) -> int:
    """When a time of `cycles` is over that is set at `now`: the beginning of a tick, in cycles."""
    return tick_start(now) + whole_ticks(cycles)
