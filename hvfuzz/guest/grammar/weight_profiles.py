"""Weight profiles: tables of weights that aim generation at one or two families of ops, for campaigns that take turns.

With one table of weights, ops that the table makes rare meet other rare ops hardly ever. A rotation through the
profiles lets each family, and each pair of families, make up most of the programs for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from random import Random
from types import MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.guest.grammar.op_weights import weight_of
from hvfuzz.guest.program.ops import Catalogue

FOCUS: Final = 3
"""Weight of the families in focus together, as a multiple of the weight of all other kinds."""
TURN: Final = 100
"""Number of programs for which a profile is used before the next one has its turn."""
_SCALE: Final = 1000
"""Factor of all weights of a profile, so that equal shares of a focus are integers and hardly rounded."""


class WeightProfile(NamedTuple):
    """A table of weights for `generate` and `mutate`."""

    name: str
    """The families in focus, joined by `+`; empty for the base weights."""
    weights: Mapping[str, int]


def weight_profiles(catalogue: Catalogue, base: Mapping[str, int]) -> tuple[WeightProfile, ...]:
    """The weights `base`, then a profile for each family of `catalogue`, then one for each pair of families.

    In a profile, the families in focus get equal shares, and so do the kinds of each family, even those of weight 0 in
    `base`; all other kinds keep the ratios of `base`.
    """
    families: dict[str, list[str]] = {}
    for kind in catalogue.kinds:
        families.setdefault(kind.family, []).append(kind.name)
    usual = {kind.name: weight_of(kind, base) for kind in catalogue.kinds}
    focuses = (*((family,) for family in families), *combinations(families, 2))
    return (
        WeightProfile("", base),
        *(WeightProfile("+".join(focus), _focused(usual, [families[each] for each in focus])) for focus in focuses),
    )


def _focused(usual: Mapping[str, int], focus: list[list[str]]) -> Mapping[str, int]:
    """The weights `usual`, but with the kinds of each list in `focus` raised to an equal share of FOCUS."""
    rest = sum(usual.values()) - sum(usual[name] for family in focus for name in family)
    weights = {name: weight * _SCALE for name, weight in usual.items()}
    for family in focus:
        share = FOCUS * max(rest, 1) * _SCALE // (len(focus) * len(family))
        weights.update(dict.fromkeys(family, max(share, 1)))
    return MappingProxyType(weights)


class WeightRotation:
    """Gives each profile its turn of at least TURN programs, in a random order that is the same for the same seed."""

    __slots__ = ("_order", "_start", "turns")

    def __init__(self, profiles: tuple[WeightProfile, ...], seed: int) -> None:
        self._order: Final = list(profiles)
        Random(seed).shuffle(self._order)
        self._start: int | None = None
        self.turns = 0
        """Number of turns that have begun."""

    def at(self, runs: int) -> WeightProfile:
        """The profile to use after `runs` programs."""
        if self._start is None or runs - self._start >= TURN:
            self._start = runs
            self.turns += 1
        return self._order[(self.turns - 1) % len(self._order)]

    @property
    def profiles(self) -> int:
        """Number of different profiles that have had a turn."""
        return min(self.turns, len(self._order))
