"""Entries are chosen in proportion to their weights, at one random number each."""

from collections import Counter
from random import Random

from hvfuzz.guest.grammar.weighted_choice import WeightedChoice


def test_entries_are_chosen_in_proportion_to_their_weights() -> None:
    choice = WeightedChoice((("never", 0), ("rare", 1), ("often", 9), ("last never", 0)))
    rng = Random(1)
    chosen = Counter(choice.choose(rng) for _ in range(2000))
    assert set(chosen) == {"rare", "often"}
    assert 120 < chosen["rare"] < 280


def test_a_choice_takes_one_random_number() -> None:
    rng, other = Random(2), Random(2)
    WeightedChoice((("a", 1), ("b", 2))).choose(rng)
    other.random()
    assert rng.getstate() == other.getstate()
