"""The secret words of all domains and heap pages, and which domain may know which. Helper of the oracle `secrets`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from hvfuzz.oracles.scene.excuses import SHARING, Excuse
from hvfuzz.oracles.shadow.rewindable import ShadowMap

HEAP: Final = -1
"""Owner of the secrets of the hypervisor's heap pages."""
HALF: Final = 1 << 32
CANARY_BITS: Final = 1 << 63 | 1 << 31
"""Set in every canary, so that a small number is never one by chance."""


class Canaries:
    """Knows each secret word, its two 32-bit halves, and its owner: a domain, or HEAP.

    A domain that grants a frame, or is granted one, may pass on what it knows: the two domains, and all that they
    shared something with, form one group, whose canaries are no secret within it.
    """

    __slots__ = ("_domains", "_excused", "_groups", "halves", "words")

    def __init__(self, excused: Callable[[Excuse], None]) -> None:
        """`excused` is called where a secret is none because of what the domains shared."""
        self._excused: Final = excused
        self.words: Final[ShadowMap[int, int]] = ShadowMap()
        """Secret word -> its owner."""
        self.halves: Final[ShadowMap[int, int]] = ShadowMap()
        """Half of a secret word -> its owner."""
        self._domains: list[int] = []
        self._groups: list[int] = []
        """Domain -> the domains of its group, as bits."""

    def rebase(self, domains: Iterable[int]) -> None:
        """Make what is known now the base, in which each domain forms a group alone."""
        self.words.rebase()
        self.halves.rebase()
        self._domains = [1 << domain for domain in domains]
        self._groups = list(self._domains)

    def reset(self) -> None:
        """Return to the base."""
        self.words.reset()
        self.halves.reset()
        self._groups = list(self._domains)

    def learn(self, word: int, owner: int) -> None:
        """Note a secret word of `owner`."""
        self.words.put(word, owner)
        self.halves.put(word >> 32, owner)
        self.halves.put(word & HALF - 1, owner)

    def is_secret(self, owner: int, domain: int) -> bool:
        """Whether `domain` must not know what belongs to `owner`."""
        if owner == HEAP or not self._groups[domain] >> owner & 1:
            return True
        if owner != domain:
            self._excused(SHARING)
        return False

    def join(self, one: int, other: int) -> None:
        """The two domains may pass on to each other what they know. Numbers of no domain are ignored."""
        groups = self._groups
        if not (0 <= one < len(groups) and 0 <= other < len(groups)):
            return
        joined = groups[one] | groups[other]
        self._groups = [joined if joined >> domain & 1 else group for domain, group in enumerate(groups)]


def owner_name(owner: int) -> str:
    """An owner in words, for messages."""
    return "the hypervisor" if owner == HEAP else f"dom{owner}"
