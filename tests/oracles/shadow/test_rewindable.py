"""Containers that return to their base: properties of `ShadowMap`, `ShadowWords` and `differences`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.oracles.shadow.changes import differences
from hvfuzz.oracles.shadow.rewindable import ShadowMap, ShadowWords

KEYS = st.integers(0, 5)
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.integers(0, 9)))


def apply(shadow: ShadowMap[int, int], changes: list[tuple[int, int | None]]) -> None:
    for key, value in changes:
        if value is None:
            shadow.drop(key)
        else:
            shadow.put(key, value)


@given(CHANGES, CHANGES, CHANGES)
def test_map_returns_to_its_base(
    base: list[tuple[int, int | None]], one: list[tuple[int, int | None]], two: list[tuple[int, int | None]]
) -> None:
    shadow: ShadowMap[int, int] = ShadowMap()
    apply(shadow, base)
    shadow.rebase()
    before = dict(shadow)
    for changes in (one, two):
        apply(shadow, changes)
        expected = dict(before)
        for key, value in changes:
            expected.pop(key, None)
            if value is not None:
                expected[key] = value
        assert shadow == expected
        shadow.reset()
        assert shadow == before


@given(st.lists(st.integers(), min_size=6, max_size=6), st.lists(st.tuples(KEYS, st.integers(), st.booleans())))
def test_words_return_to_their_base(base: list[int], changes: list[tuple[int, int, bool]]) -> None:
    shadow = ShadowWords(list(base))
    for index, value, pair in changes:
        if pair:
            place = slice(index & ~1, (index & ~1) + 2)
            shadow.changed.append(place)
            shadow.values[place] = [value, value]
        else:
            shadow.changed.append(index)
            shadow.values[index] = value
    shadow.reset()
    assert shadow.values == base
    assert not shadow.changed


ENTRIES = st.lists(st.none() | st.tuples(st.integers(0, 3)), min_size=8, max_size=8)


@given(ENTRIES, ENTRIES)
def test_differences(old: list[tuple[int] | None], new: list[tuple[int] | None]) -> None:
    found = differences(old, new)
    assert found == [(index, old[index], new[index]) for index in range(8) if old[index] != new[index]]
