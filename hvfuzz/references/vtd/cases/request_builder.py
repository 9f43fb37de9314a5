"""A case of one request under construction: correct tables, to which faults are then added."""

import random
from typing import Final

from hvfuzz.machine.vtd.legacy_mode import ENTRY_SIZE, PRESENT, SL_PAGE_SIZE, WIDTH_OF_LEVELS
from hvfuzz.references.vtd.memory_map import CONTEXTS, LARGE_PAGES, PAGES, ROOT, TABLES, slot
from hvfuzz.references.vtd.qemu import DEVICES

RIGHTS: Final = 3
"""R and W of a second-level entry."""
SIZES: Final = (1, 2, 4, 8, 16, 64, 200)
LOWEST: Final = 0x400_0000
"""Lowest IOVA: untranslated, lower addresses may be tables of the case."""
HOLE: Final = (0x8000_0000, 0x1_0000_0000)
"""Range without IOVAs: untranslated, such an address may be a device register."""


class RequestBuilder:
    """The tables of a request as {hpa: word}, and the device, address and size of the request; all of it mutable."""

    def __init__(self, rng: random.Random, width: int, levels: int = 0, leaf: int = 0) -> None:
        """A random request; nonzero `levels` (3 or 4) and `leaf` (1 to 3) fix the table levels and the leaf's level."""
        self.rng: Final = rng
        self.width: Final = width
        self.levels = levels or (3 if width == 39 or rng.random() < 0.3 else 4)
        self.device = rng.randrange(len(DEVICES))
        self.leaf = leaf or rng.choices((1, 2, 3), (6, 3, 3))[0]
        self.to_memory = rng.random() < 0.5
        self.iova = random_iova(rng, WIDTH_OF_LEVELS[self.levels])
        if self.leaf == 3:
            self.iova |= 1 << 29  # no 1 GiB leaf with one wrong bit then reaches the tables
        self.size = rng.choice(SIZES)
        self.words: dict[int, int] = {}
        self.tables: Final = TABLES[self.device]
        self.target = rng.choice(PAGES) if self.leaf == 1 else rng.choice(LARGE_PAGES[self.leaf])
        self.root = ROOT
        self.context = CONTEXTS + DEVICES[self.device] * ENTRY_SIZE
        self._fill()

    def _fill(self) -> None:
        """Write tables that translate the request."""
        rng = self.rng
        self.words[ROOT] = CONTEXTS | PRESENT
        for number, bdf in enumerate(DEVICES):
            low, high = CONTEXTS + bdf * ENTRY_SIZE, rng.randrange(1 << 16)
            self.words[low] = TABLES[number][self.levels - 1] | PRESENT
            self.words[low + 8] = high << 8 | self.levels - 2
        for level in range(self.levels, self.leaf, -1):
            self.words[self.entry(level)] = self.tables[level - 2] | RIGHTS
        self.words[self.entry(self.leaf)] = self.target | RIGHTS | (SL_PAGE_SIZE if self.leaf > 1 else 0)

    @property
    def offset_mask(self) -> int:
        """The bits of an IOVA that are the offset in the page that the leaf maps."""
        return (1 << 12 + 9 * (self.leaf - 1)) - 1

    def entry(self, level: int) -> int:
        """Hpa of the entry of `level` that translates the request."""
        return slot(self.tables, self.iova, level)

    def any_level(self) -> int:
        """A random level of the walk."""
        return self.rng.randint(self.leaf, self.levels)

    def flip(self, hpa: int, *bits: int) -> None:
        """Flip bits of a word."""
        for bit in bits:
            self.words[hpa] = self.words.get(hpa, 0) ^ 1 << bit


def random_iova(rng: random.Random, width: int) -> int:
    """A random IOVA of up to `width` bits, which is memory or unbacked even if it is not translated."""
    while True:
        iova = rng.getrandbits(rng.randint(27, width))
        if iova >= LOWEST and not HOLE[0] <= iova < HOLE[1]:
            return iova
