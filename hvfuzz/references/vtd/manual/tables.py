"""Walks of VT-d's legacy-mode tables, written from the manual alone (VT-d spec, 3.4, 7.1.3, 9.1, 9.3, 9.8).

No code or constant of the IOMMU model is used, so a fault of either one shows as a difference.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

NO_BITS: Final = 0
LEAST_WIDTH: Final = 30
"""With the address width code AW a context entry has AW + 2 levels, for LEAST_WIDTH + 9 * AW bits (9.3)."""
INTERRUPT_PAGES: Final = range(0xFEE00, 0xFEF00)
"""Pages 0xFEExx, at which requests are interrupts (3.14)."""


class ContextEntry(NamedTuple):
    """A usable context entry."""

    did: int
    table: int
    levels: int
    passes: bool
    """TT = 10b: requests are passed through."""
    fpd: bool

    @property
    def width(self) -> int:
        """Bits of an IOVA."""
        return 12 + 9 * self.levels


class Unusable(NamedTuple):
    """The fault reason, and whether FPD is set in the context entry that has been read."""

    reason: int
    fpd: bool


class Leaf(NamedTuple):
    """The entry that maps a page: its level, the hpa of the first byte, and the rights that all levels grant."""

    level: int
    hpa: int
    rights: int


class Tables:
    """Tables in `words`, which is {hpa: 64-bit word}, 0 elsewhere; reads at `size` and above fail."""

    def __init__(self, width: int, size: int, words: Mapping[int, int]) -> None:
        self._width: Final = width
        self._size: Final = size
        self._words: Final = words
        self._address: Final = (1 << width) - (1 << 12)

    def _beyond_host(self, word: int) -> bool:
        return word >> self._width != NO_BITS

    def context(self, root: int, bdf: int) -> ContextEntry | Unusable:
        """The context entry of the requester `bdf` by the root table at hpa `root`."""
        at = root + 16 * (bdf >> 8)
        if at >= self._size:
            return Unusable(8, False)
        low, high = self._words.get(at, 0), self._words.get(at + 8, 0)
        if not low & 1:
            return Unusable(1, False)
        if low & 0xFFE or self._beyond_host(low) or high:
            return Unusable(10, False)
        at = (low & self._address) + 16 * (bdf & 0xFF)
        if at >= self._size:
            return Unusable(9, False)
        low, high = self._words.get(at, 0), self._words.get(at + 8, 0)
        fpd = low >> 1 & 1 == 1
        if not low & 1:
            return Unusable(2, fpd)
        if low & 0xFF0 or self._beyond_host(low) or high & 1 << 7 or high >> 24:
            return Unusable(11, fpd)
        width, kind = high & 7, low >> 2 & 3
        if width not in (1, 2) or LEAST_WIDTH + 9 * width > self._width or kind not in (0, 2):
            return Unusable(3, fpd)
        return ContextEntry(high >> 8 & 0xFFFF, low & self._address, width + 2, kind == 2, fpd)

    def leaf(self, context: ContextEntry, iova: int, access: int) -> Leaf | int:
        """The leaf that translates `iova`, which is within the width; or a fault reason. `access` is R (1) or W (2)."""
        table, rights = context.table, 3
        for level in range(context.levels, 0, -1):
            at = table + 8 * (iova >> 3 + 9 * level & 511)
            if at >= self._size:
                return 3 if level == context.levels else 7
            entry = self._words.get(at, 0)
            if not entry & access:
                return 5 if access == 2 else 6
            is_leaf = level == 1 or (level < 4 and entry >> 7 & 1 == 1)
            if self._is_reserved(entry, level, is_leaf):
                return 12
            rights &= entry
            table = entry & self._address
            if is_leaf:
                return Leaf(level, table, rights)
        raise AssertionError("level 1 has no tables below it")

    def _is_reserved(self, entry: int, level: int, is_leaf: bool) -> bool:
        """Whether a second-level entry has a reserved bit set (9.8); bits 52 to 61 and 63 are ignored."""
        without_ignored = entry & ((1 << 52) - 1 | 1 << 62)
        if entry >> 11 & 1 or self._beyond_host(without_ignored):
            return True
        if level == 4:
            return entry >> 7 & 1 == 1
        return is_leaf and table_offset(entry, level) != NO_BITS


def table_offset(entry: int, level: int) -> int:
    """Bits 12 and up of an address that are an offset in the page of a leaf of `level`."""
    return entry & (1 << 3 + 9 * level) - (1 << 12)
