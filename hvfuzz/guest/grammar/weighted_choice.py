"""A table of weighted entries, and one draw from it."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from itertools import accumulate
from random import Random
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class WeightedChoice(Generic[T]):
    """Chooses among entries in proportion to their weights, which are integers from 0 up, at least one above 0."""

    __slots__ = ("_cumulative", "_entries", "_total")

    def __init__(self, table: Iterable[tuple[T, int]]) -> None:
        rows = tuple(table)
        self._entries: Final = tuple(entry for entry, _ in rows)
        self._cumulative: Final = tuple(accumulate(weight for _, weight in rows))
        self._total: Final = self._cumulative[-1]

    def choose(self, rng: Random) -> T:
        """One entry, at the cost of one random number."""
        return self._entries[bisect(self._cumulative, int(rng.random() * self._total))]
