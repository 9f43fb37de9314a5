"""QEMU's IOTLB, kept beside that of our model: exact predictions for the quirks of its lookup and invalidation.

QEMU files an entry under the requester id, and an entry covers a whole page of the tables, small or large.
"""

from typing import Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.vtd.legacy_mode import INTERRUPT_RANGE
from hvfuzz.machine.vtd.walker import WalkStep

INTERRUPT_PAGE: Final = INTERRUPT_RANGE << 20 - PAGE_SHIFT
INTERRUPT_PAGES: Final = 1 << 20 - PAGE_SHIFT
COMPARED_BITS: Final = 0xFF
"""Bits of a page number that a page-selective invalidation compares (the quirk page-invalidation-of-eight-bits)."""


class IotlbEntry(NamedTuple):
    """An entry of QEMU's IOTLB."""

    did: int
    level: int
    page: int
    """The first 4 KiB page that it covers."""
    hpa: int
    rights: int

    @property
    def pages(self) -> int:
        """Number of 4 KiB pages that the entry covers."""
        return 1 << 9 * (self.level - 1)

    def of_page(self, page: int) -> tuple[int, int]:
        """(hpa, rights) of one of these 4 KiB pages, as an entry of our model's IOTLB."""
        return self.hpa + (page - self.page << PAGE_SHIFT), self.rights

    def hits_interrupts(self) -> bool:
        """Whether any of the pages maps into the interrupt range 0xFEExxxxx."""
        first = self.hpa >> PAGE_SHIFT
        return first < INTERRUPT_PAGE + INTERRUPT_PAGES and first + self.pages > INTERRUPT_PAGE


def cached_by_walk(steps: list[WalkStep], did: int, page: int, host_width: int) -> IotlbEntry | None:
    """The entry that a successful walk adds, from the table entries in `steps`; None if it read no table."""
    entries = [(level, entry) for _, level, _, _, entry in steps if level]
    if not entries:
        return None
    rights = 3
    for _, entry in entries:
        rights &= entry
    level, leaf = entries[-1]
    covered = 1 << 9 * (level - 1)
    hpa = leaf & (1 << host_width) - 1 & ~PAGE_MASK
    return IotlbEntry(did, level, page & ~(covered - 1), hpa, rights)


class QemuIotlb:
    """The entries, and for each entry the 4 KiB pages of it that our model has walked for."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int, int], IotlbEntry] = {}
        self._used: dict[tuple[int, int, int], set[int]] = {}

    def lookup(self, bdf: int, page: int) -> IotlbEntry | None:
        """The entry that a request of `bdf` for `page` hits, or None."""
        for level in (1, 2, 3):
            entry = self._entries.get((bdf, level, page >> 9 * (level - 1)))
            if entry is not None:
                return entry
        return None

    def used(self, bdf: int, entry: IotlbEntry, page: int) -> bool:
        """Whether our model has walked for `page` of this entry."""
        return page in self._used[_key(bdf, entry)]

    def fill(self, bdf: int, entry: IotlbEntry, page: int) -> None:
        """Add the entry of a successful walk for `page`."""
        key = _key(bdf, entry)
        if self._entries.get(key) != entry:
            self._entries[key] = entry
            self._used[key] = set()
        self._used[key].add(page)

    def invalidate(self, did: int | None = None) -> None:
        """Drop all entries, or those of the domain `did`."""
        for key, entry in list(self._entries.items()):
            if did is None or entry.did == did:
                del self._entries[key], self._used[key]

    def invalidate_pages(self, did: int, page: int, order: int) -> list[IotlbEntry]:
        """Drop what QEMU drops when 2**order pages around `page` are invalidated.

        Returns the dropped entries that are not wholly within these pages. QEMU compares only the low eight bits of
        page numbers, without the `order` lowest.
        """
        compared = COMPARED_BITS & ~((1 << order) - 1)
        first = page >> order << order
        beyond = []
        for key, entry in list(self._entries.items()):
            hit = not (entry.page ^ page) & compared or entry.page <= page < entry.page + entry.pages
            if entry.did == did and hit:
                if entry.page < first or entry.page + entry.pages > first + (1 << order):
                    beyond.append(entry)
                del self._entries[key], self._used[key]
        return beyond


def _key(bdf: int, entry: IotlbEntry) -> tuple[int, int, int]:
    return bdf, entry.level, entry.page >> 9 * (entry.level - 1)
