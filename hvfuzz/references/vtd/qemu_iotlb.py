"""What QEMU's caches hold, as far as they are not those of our model: the quirks of its IOTLB, made exact.

An entry is filed under the requester id and covers the whole page of the tables, large or small.
"""

from typing import Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.vtd.legacy_mode import INTERRUPT_RANGE
from hvfuzz.machine.vtd.walker import WalkStep

INTERRUPT_PAGE: Final = INTERRUPT_RANGE << 20 - PAGE_SHIFT
INTERRUPT_PAGES: Final = 1 << 20 - PAGE_SHIFT
COMPARED_BITS: Final = 0xFF
"""Of a page number, in a page-selective invalidation."""


class IotlbEntry(NamedTuple):
    """A translation as QEMU keeps it."""

    did: int
    level: int
    page: int
    """The first 4 KiB page that it covers."""
    hpa: int
    rights: int

    @property
    def pages(self) -> int:
        """How many pages of 4 KiB it covers."""
        return 1 << 9 * (self.level - 1)

    def of_page(self, page: int) -> tuple[int, int]:
        """(Hpa of the page, rights): what our model keeps for one of the pages."""
        return self.hpa + (page - self.page << PAGE_SHIFT), self.rights

    def hits_interrupts(self) -> bool:
        """Whether any of it leads to the interrupt range."""
        first = self.hpa >> PAGE_SHIFT
        return first < INTERRUPT_PAGE + INTERRUPT_PAGES and first + self.pages > INTERRUPT_PAGE


def cached_by_walk(steps: list[WalkStep], did: int, page: int, host_width: int) -> IotlbEntry | None:
    """What a walk that succeeded leaves in the cache, from the entries that it read; None if it read no table."""
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
    """The entries, and for each the pages that our model must have too, for they were used."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int, int], IotlbEntry] = {}
        self._used: dict[tuple[int, int, int], set[int]] = {}

    def lookup(self, bdf: int, page: int) -> IotlbEntry | None:
        """The entry that a request of `bdf` to `page` finds."""
        for level in (1, 2, 3):
            entry = self._entries.get((bdf, level, page >> 9 * (level - 1)))
            if entry is not None:
                return entry
        return None

    def used(self, bdf: int, entry: IotlbEntry, page: int) -> bool:
        """Whether our model has walked for `page` itself."""
        return page in self._used[_key(bdf, entry)]

    def fill(self, bdf: int, entry: IotlbEntry, page: int) -> None:
        """A walk for `page` succeeded."""
        key = _key(bdf, entry)
        if self._entries.get(key) != entry:
            self._entries[key] = entry
            self._used[key] = set()
        self._used[key].add(page)

    def invalidate(self, did: int | None = None) -> None:
        """Drop all entries, or those of a domain."""
        for key, entry in list(self._entries.items()):
            if did is None or entry.did == did:
                del self._entries[key], self._used[key]

    def invalidate_pages(self, did: int, page: int, order: int) -> list[IotlbEntry]:
        """Drop what QEMU drops for 2**order pages around `page`; those of it that the range does not cover.

        It compares only the low eight bits of page numbers, and what of these the order leaves.
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
