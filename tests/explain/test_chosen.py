"""Numbers that a guest chose count as the numbers that they are, and say where they come from."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.explain.recording.chosen import LONGEST, Chosen, origin_of

OPERATORS: tuple[Callable[[int, int], int], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.and_,
    operator.or_,
    operator.xor,
    operator.floordiv,
    operator.mod,
)
SHIFTS: tuple[Callable[[int, int], int], ...] = (operator.lshift, operator.rshift)
NUMBERS = st.integers(0, (1 << 64) - 1)


@given(st.sampled_from(OPERATORS), NUMBERS, NUMBERS.filter(bool), st.booleans(), st.booleans())
def test_arithmetic_is_that_of_ints(
    apply: Callable[[int, int], int], one: int, two: int, first: bool, second: bool
) -> None:
    left: Any = Chosen(one, "left") if first else one
    right: Any = Chosen(two, "right") if second else two
    assert apply(left, right) == apply(one, two)


@given(st.sampled_from(SHIFTS), NUMBERS, st.integers(0, 64), st.booleans())
def test_shifts_are_those_of_ints(apply: Callable[[int, int], int], one: int, by: int, swapped: bool) -> None:
    chosen: Any = Chosen(by if swapped else one, "it")
    assert (apply(one, chosen) if swapped else apply(chosen, by)) == apply(one, by)


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        (Chosen(5, "count"), "count"),
        (Chosen(0x1000, "out") + 8 * Chosen(3, "start"), "out + 8 * start"),
        ((Chosen(0x1000, "first") + Chosen(2, "count")) * 8, "(first + count) * 8"),
        (0x2000 | Chosen(3, "flags"), "0x2000 | flags"),
        (Chosen(0x1234, "gva") & 0xFFF, "gva & 0xfff"),
        (Chosen(0x234, "gva") & 0xFFF, "gva"),
        (Chosen(7, "count") + 0, "count"),
        (7 + 1, ""),
    ],
)
def test_origins(value: int, origin: str) -> None:
    assert origin_of(value) == origin


def test_an_origin_stays_short() -> None:
    value: int = Chosen(1, "start")
    for number in range(1, 200):
        value = value + number
    assert len(origin_of(value)) <= LONGEST + 5


def test_a_copy_for_another_process_is_a_plain_number() -> None:
    assert type(pickle.loads(pickle.dumps(Chosen(5, "count")))) is int
