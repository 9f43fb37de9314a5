"""Which domain may know which secret, and how knowledge spreads."""

from __future__ import annotations

import pytest

from hvfuzz.oracles.isolation.canary_search import HEAP, Canaries, owner_name
from hvfuzz.oracles.scene.excuses import Excuses

WORD = 0xC3A1_58E7_9B26_F40D


def known() -> Canaries:
    canaries = Canaries(Excuses().note)
    canaries.learn(WORD, 2)
    canaries.rebase(range(4))
    return canaries


SECRET = WORD.to_bytes(8, "little")


def test_words_have_an_owner() -> None:
    canaries = known()
    assert canaries.words == {WORD: 2}
    assert set(canaries.quads.values()) == {2}
    assert 0xC3A1_58E7 in canaries.quads
    assert 0xE79B_26F4 in canaries.quads, "at an odd offset"
    assert 0xF40D_C3A1 in canaries.quads, "across two copies of it"


@pytest.mark.parametrize("at", range(5))
def test_four_bytes_in_a_register(at: int) -> None:
    canaries = known()
    part = int.from_bytes(SECRET[at : at + 4], "little")
    assert [canaries.in_value(part << 8 * shift, 8, 1) for shift in range(5)] == [2] * 5
    assert canaries.in_value(part, 4, 2) is None, "its owner knows it"
    assert canaries.in_value(part >> 8, 8, 1) is None, "three bytes are no evidence"


@pytest.mark.parametrize("length", [9, 16, 17, 40, 4096])
def test_a_whole_secret_at_any_offset(length: int) -> None:
    for at in {*range(min(40, length - 7)), length - 8}:
        data = bytes(at) + SECRET + bytes(length - at - 8)
        assert known().in_data(data, 1) == 2, at
        assert known().in_data(data, 2) is None


@pytest.mark.parametrize("at", range(4))
def test_five_bytes_in_short_data_and_seven_in_long(at: int) -> None:
    for offset in range(11):
        assert known().in_data(b"x" * offset + SECRET[at : at + 5] + b"y" * (11 - offset), 1) == 2
        assert known().in_data(b"x" * (offset + 20) + (SECRET * 2)[at : at + 7] + b"y" * 30, 1) == 2
        assert known().in_data(b"x" * (offset + 8) + SECRET[at : at + 4] + b"y" * 30, 1) is None


def test_what_is_too_short_to_tell() -> None:
    assert known().in_data(SECRET[:3], 1) is None
    assert known().in_data(SECRET[:4], 1) == 2
    assert known().in_data(b"", 1) is None


def test_groups_grow_by_sharing() -> None:
    canaries = known()
    canaries.join(1, 2)
    canaries.join(3, 1)
    canaries.join(0, 7)
    assert [canaries.is_secret(2, domain) for domain in range(4)] == [True, False, False, False]
    assert all(canaries.is_secret(HEAP, domain) for domain in range(4))


def test_reset_returns_to_the_base() -> None:
    canaries = known()
    canaries.learn(1, HEAP)
    canaries.join(1, 2)
    canaries.reset()
    assert canaries.words == {WORD: 2}
    assert set(canaries.quads.values()) == {2}
    assert canaries.is_secret(2, 1)


def test_owners_in_words() -> None:
    assert (owner_name(HEAP), owner_name(3)) == ("the hypervisor", "dom3")
