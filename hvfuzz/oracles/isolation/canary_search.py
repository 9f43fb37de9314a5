"""The secret words of all domains and heap pages, and which domain may know which. Helper of the oracle `secrets`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from hvfuzz.oracles.scene.excuses import SHARING, Excuse
from hvfuzz.oracles.shadow.rewindable import ShadowMap

HEAP: Final = -1
"""Owner of the secrets of the hypervisor's heap pages."""
CANARY_BITS: Final = 1 << 63 | 1 << 31
"""Set in every canary, so that a small number is never one by chance."""
NARROW: Final = 4
"""Bytes of a secret that are evidence in a value of up to eight bytes."""
WIDE: Final = 5
"""Bytes of a secret that are evidence in longer data, or in memory, where guests keep many numbers of their own.

A program holds about a hundred secrets, so 2^10 of the 2^32 values of four bytes are part of one: a random register is
one by chance in 2^-20 of cases, a random place of memory in 2^-30. Most registers and words that guests use are small
numbers, flags or addresses, which no part of a keyed hash resembles.
"""
SHORT: Final = 16
"""Bytes of data that are searched at each offset."""
WORD: Final = 8
QUAD: Final = (1 << 32) - 1


class Canaries:
    """Knows each secret word, its parts of four bytes, and its owner: a domain, or HEAP.

    A domain that grants a frame, or is granted one, may pass on what it knows: the two domains, and all that they
    shared something with, form one group, whose canaries are no secret within it.
    """

    __slots__ = ("_domains", "_excused", "_groups", "_wholes", "quads", "words")

    def __init__(self, excused: Callable[[Excuse], None]) -> None:
        """`excused` is called where a secret is none because of what the domains shared."""
        self._excused: Final = excused
        self.words: Final[ShadowMap[int, int]] = ShadowMap()
        """Secret word -> its owner."""
        self.quads: Final[ShadowMap[int, int]] = ShadowMap()
        """Four consecutive bytes of a secret, as they lie in memory where it is repeated -> its owner."""
        self._wholes: Final[ShadowMap[int, bytes]] = ShadowMap()
        """The same four bytes -> the secret, twice."""
        self._domains: list[int] = []
        self._groups: list[int] = []
        """Domain -> the domains of its group, as bits."""

    def rebase(self, domains: Iterable[int]) -> None:
        """Make what is known now the base, in which each domain forms a group alone."""
        self.words.rebase()
        self.quads.rebase()
        self._wholes.rebase()
        self._domains = [1 << domain for domain in domains]
        self._groups = list(self._domains)

    def reset(self) -> None:
        """Return to the base."""
        self.words.reset()
        self.quads.reset()
        self._wholes.reset()
        self._groups = list(self._domains)

    def learn(self, word: int, owner: int) -> None:
        """Note a secret word of `owner`."""
        self.words.put(word, owner)
        twice = word.to_bytes(WORD, "little") * 2
        for at in range(WORD):
            quad = int.from_bytes(twice[at : at + NARROW], "little")
            self.quads.put(quad, owner)
            self._wholes.put(quad, twice)

    def is_secret(self, owner: int, domain: int) -> bool:
        """Whether `domain` must not know what belongs to `owner`."""
        if owner == HEAP or not self._groups[domain] >> owner & 1:
            return True
        if owner != domain:
            self._excused(SHARING)
        return False

    def in_value(self, value: int, size: int, domain: int) -> int | None:
        """The owner of a secret of which four bytes are in a value of `size` bytes; None if `domain` may know it."""
        quads = self.quads
        for shift in range(0, (size - NARROW << 3) + 1, 8):
            owner = quads.get(value >> shift & QUAD)
            if owner is not None and self.is_secret(owner, domain):
                return owner
        return None

    def in_data(self, data: bytes, domain: int) -> int | None:
        """The owner of a secret of which a part is in `data`, at any offset; None if `domain` may know it.

        Four bytes are enough in data of up to eight bytes, five in up to SHORT bytes. In longer data seven are found
        always, and five or six where they hold an aligned group of four.
        """
        size = len(data)
        if size <= WORD:
            return self.in_value(int.from_bytes(data, "little"), size, domain) if size >= NARROW else None
        if size <= SHORT:
            places: Iterable[int] = range(size - NARROW + 1)
        else:
            groups = memoryview(data)[: size & -NARROW].cast("I").tolist()
            if self.quads.keys().isdisjoint(groups):
                groups = []
            places = [at * NARROW for at, group in enumerate(groups) if group in self.quads]
            places += range(size - WIDE - 1, size - NARROW + 1)
        for at in places:
            quad = int.from_bytes(data[at : at + NARROW], "little")
            owner = self.quads.get(quad)
            if owner is not None and self._is_part(data, at, quad) and self.is_secret(owner, domain):
                return owner
        return None

    def _is_part(self, data: bytes, at: int, quad: int) -> bool:
        """Whether the byte before or after these four is that of the secret, too."""
        twice = self._wholes[quad]
        start = twice.index(quad.to_bytes(NARROW, "little"))
        before, after = twice[start - 1 if start else WORD - 1], twice[(start + NARROW) % WORD]
        return (at > 0 and data[at - 1] == before) or (at + NARROW < len(data) and data[at + NARROW] == after)

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
