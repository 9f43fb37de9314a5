"""The IOTLB by the manual: one translation for each 4 KiB page used, tagged by domain id (VT-d spec, 6.2.1).

With quirks it is QEMU's: entries are tagged by requester id, and cover a whole page of the tables.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.manual.tables import Leaf

_SIZES: Final = (1, 1 << 9, 1 << 18)
COMPARED_BITS: Final = 0xFF
"""Bits of a page number that a page-selective invalidation compares (the quirk page-invalidation-of-eight-bits)."""


class Translation(NamedTuple):
    """Pages from number `page` on are mapped to memory from `hpa` on."""

    did: int
    page: int
    pages: int
    hpa: int
    rights: int

    def hpa_of(self, iova: int) -> int:
        """Hpa of an IOVA in these pages."""
        return self.hpa + iova - (self.page << 12)


class Iotlb:
    """The cached translations."""

    def __init__(self, uses: quirks.Uses) -> None:
        self._uses: Final = uses
        self._entries: dict[tuple[int, int, int], Translation] = {}
        """(did, or with the quirk iotlb-by-source bdf; number of pages; first page) -> translation."""

    def fill(self, bdf: int, did: int, iova: int, leaf: Leaf) -> None:
        """Add the translation of a successful walk."""
        whole = _SIZES[leaf.level - 1]
        pages = whole if whole > 1 and self._uses(quirks.SUPERPAGE) else 1
        page = iova >> 12 & ~(pages - 1)
        hpa = leaf.hpa + ((page & whole - 1) << 12)
        owner = bdf if self._uses(quirks.BY_SOURCE) else did
        self._entries[owner, pages, page] = Translation(did, page, pages, hpa, leaf.rights)

    def lookup(self, bdf: int, dids: Collection[int], iova: int) -> Translation | None:
        """The translation that a request of `bdf` hits, if it is of one of the domains `dids`."""
        owners = [bdf] if self._uses(quirks.BY_SOURCE) else dids
        for pages in _SIZES:
            for owner in owners:
                entry = self._entries.get((owner, pages, iova >> 12 & ~(pages - 1)))
                if entry is not None and entry.did in dids:
                    return entry
        return None

    def invalidate(self, did: int | None = None) -> None:
        """Drop all translations, or those of the domain `did` (6.5.1.2)."""
        self._entries = {} if did is None else {key: entry for key, entry in self._entries.items() if entry.did != did}

    def invalidate_pages(self, did: int, iova: int, order: int) -> None:
        """Drop the translations of the domain for the 2**order pages around `iova` (10.4.8.2)."""
        for key, entry in list(self._entries.items()):
            if entry.did == did and self._is_named(entry, iova >> 12, order):
                del self._entries[key]

    def _is_named(self, entry: Translation, page: int, order: int) -> bool:
        first = page >> order << order
        named = entry.page < first + (1 << order) and first < entry.page + entry.pages
        if not self._uses(quirks.ADDRESS_MASK):
            return named
        return not (entry.page ^ page) & COMPARED_BITS >> order << order or (
            entry.page <= page < entry.page + entry.pages
        )
