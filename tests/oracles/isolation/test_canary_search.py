"""Which domain may know which secret, and how knowledge spreads."""

from __future__ import annotations

from hvfuzz.oracles.isolation.canary_search import HEAP, Canaries, owner_name
from hvfuzz.oracles.scene.excuses import Excuses

WORD = 0x8000_1234_8000_5678


def known() -> Canaries:
    canaries = Canaries(Excuses().note)
    canaries.learn(WORD, 2)
    canaries.rebase(range(4))
    return canaries


def test_words_and_halves_have_an_owner() -> None:
    canaries = known()
    assert canaries.words == {WORD: 2}
    assert canaries.halves == {0x8000_1234: 2, 0x8000_5678: 2}


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
    assert canaries.is_secret(2, 1)


def test_owners_in_words() -> None:
    assert (owner_name(HEAP), owner_name(3)) == ("the hypervisor", "dom3")
