"""A second model of the TLB and of the paging-structure caches: what is kept, what is evicted, what is dropped.

Written from the manual (SDM Vol. 3A, 4.10; Vol. 3C, 29.4) and from the choices that the machine documents: each cache
evicts its oldest entry, an entry that is made anew keeps its place, a global mapping is used under its own PCID only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.mmu.ept import EP4TA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hvfuzz.machine.mmu.paging_cache import (
        CombinedTable,
        CombinedTableKey,
        GuestPhysicalTable,
        GuestPhysicalTableKey,
    )
    from hvfuzz.machine.mmu.tlb import CombinedEntry, CombinedKey, GuestPhysicalEntry, GuestPhysicalKey, Tlb

TABLE_LEVELS: Final = (2, 3, 4)
"""Levels whose entries can name a table."""
OF_ADDRESS, OF_PCID, EVERYTHING, ALL_BUT_GLOBALS = range(4)
"""Types of INVPCID (SDM Vol. 2A)."""
VPIDS_ADDRESS, VPID, VPIDS, VPID_BUT_GLOBALS = range(4)
"""Types of INVVPID (SDM Vol. 3C, 31.3)."""


WHAT: Final = (
    "TLB",
    "cache of guest-physical mappings",
    "paging-structure cache",
    "cache of EPT structures",
    "capacity",
    "counters",
)
"""The fields of `Contents`, in words."""


class Contents(NamedTuple):
    """What the caches hold, oldest first, to compare and to tell apart."""

    translations: list[tuple[Any, Any]]
    guest_physical: list[tuple[Any, Any]]
    tables: list[tuple[Any, Any]]
    ept_tables: list[tuple[Any, Any]]
    capacities: tuple[int, int]
    counts: tuple[int, int]
    """Hits and misses."""


def contents(tlb: Tlb) -> Contents:
    """What the caches of the machine hold now."""
    structures = tlb.structures
    return Contents(
        [*tlb.combined.items()],
        [*tlb.guest_physical.items()],
        [*structures.combined.items()],
        [*structures.guest_physical.items()],
        (tlb.capacity, structures.capacity),
        (tlb.hits, tlb.misses),
    )


def difference(found: Any, right: Any) -> str:
    """Where two values differ; of lists, the first entry that does."""
    if not isinstance(found, list):
        return f"{found}, expected {right}"
    at = next((at for at, pair in enumerate(zip(found, right, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(found), len(right)) if at is None else at
    is_, should = (each[at] if at < len(each) else "no entry" for each in (found, right))
    return f"{is_} stands at place {at}, expected {should}"


def prefix(address: int, level: int) -> int:
    """The bits of an address that select the entries down to this level."""
    return address >> PAGE_SHIFT + 9 * (level - 1)


class SecondCaches:
    """The caches of one machine, as they should be after what was done to this model."""

    __slots__ = ("_capacities", "ept_tables", "guest_physical", "hits", "misses", "tables", "translations")

    def __init__(self, tlb: Tlb) -> None:
        """Copy the caches as they are now."""
        self.translations: dict[CombinedKey, CombinedEntry] = dict(tlb.combined)
        self.guest_physical: dict[GuestPhysicalKey, GuestPhysicalEntry] = dict(tlb.guest_physical)
        self.tables: dict[CombinedTableKey, CombinedTable] = dict(tlb.structures.combined)
        self.ept_tables: dict[GuestPhysicalTableKey, GuestPhysicalTable] = dict(tlb.structures.guest_physical)
        self._capacities = (tlb.capacity, tlb.structures.capacity)
        self.hits, self.misses = tlb.hits, tlb.misses

    def contents(self) -> Contents:
        """What the caches of the machine should hold now."""
        return Contents(
            [*self.translations.items()],
            [*self.guest_physical.items()],
            [*self.tables.items()],
            [*self.ept_tables.items()],
            self._capacities,
            (self.hits, self.misses),
        )

    # Entries are made.

    def keep(self, cache: dict[Any, Any], entries: Mapping[Any, Any]) -> None:
        """Make these entries at once; then the oldest ones go if there is no room."""
        cache.update(entries)
        room = self._capacities[cache is self.tables or cache is self.ept_tables]
        while len(cache) > room:
            del cache[next(iter(cache))]

    def set_capacity(self, capacity: int) -> None:
        """Have room for so many entries of each kind."""
        self._capacities = (capacity, capacity)
        for cache in (self.translations, self.guest_physical, self.tables, self.ept_tables):
            for key in [*cache][: max(0, len(cache) - capacity)]:
                del cache[key]

    # Entries are dropped.

    def _drop(self, doomed: Callable[[CombinedKey, CombinedEntry], bool]) -> None:
        self.translations = {key: entry for key, entry in self.translations.items() if not doomed(key, entry)}

    def _drop_tables(self, doomed: Callable[[CombinedTableKey], bool]) -> None:
        self.tables = {key: table for key, table in self.tables.items() if not doomed(key)}

    def faulted(self, tag: tuple[int, int, int], gva: int) -> None:
        """A fault at an address drops the entries that lead to it (Vol. 3A, 4.10.4.1)."""
        self._drop_tables(lambda key: key[:3] == tag and key[4] == prefix(gva, key[3]))

    def violated(self, root: int, gpa: int) -> None:
        """So does an EPT violation (Vol. 3C, 29.4.3.1)."""
        gone = {(root, level, prefix(gpa, level)) for level in TABLE_LEVELS}
        self.ept_tables = {key: table for key, table in self.ept_tables.items() if key not in gone}

    def invlpg(self, vpid: int, pcid: int, gva: int) -> None:
        """INVLPG: the page of this PCID, global ones of any; all the paging structures of the PCID."""
        self._drop(lambda key, it: key[0] == vpid and (key[1] == pcid or it[3]) and same_page(key, it, gva))
        self._drop_tables(lambda key: key[:2] == (vpid, pcid))

    def invpcid(self, kind: int, vpid: int, pcid: int = 0, gva: int = 0) -> None:
        """INVPCID: see OF_ADDRESS and so on."""

        def doomed(key: CombinedKey, entry: CombinedEntry) -> bool:
            if key[0] != vpid or (entry[3] and kind != EVERYTHING):
                return False
            if kind == OF_ADDRESS:
                return key[1] == pcid and same_page(key, entry, gva)
            return kind != OF_PCID or key[1] == pcid

        def doomed_table(key: CombinedTableKey) -> bool:
            if kind == OF_ADDRESS and key[4] != prefix(gva, key[3]):
                return False
            return key[0] == vpid and (kind not in (OF_ADDRESS, OF_PCID) or key[1] == pcid)

        self._drop(doomed)
        self._drop_tables(doomed_table)

    def invvpid(self, kind: int, vpid: int = 0, gva: int = 0) -> None:
        """INVVPID: see VPIDS_ADDRESS and so on. What fails drops nothing."""
        wrong_address = kind == VPIDS_ADDRESS and gva >> 47 not in (0, (1 << 17) - 1)
        if kind not in range(4) or (kind != VPIDS and (not 0 < vpid < 1 << 16 or wrong_address)):
            return

        def doomed(key: CombinedKey, entry: CombinedEntry) -> bool:
            if kind == VPIDS:
                return key[0] != 0
            spared = kind == VPID_BUT_GLOBALS and entry[3]
            return key[0] == vpid and not spared and (kind != VPIDS_ADDRESS or same_page(key, entry, gva))

        self._drop(doomed)
        self._drop_tables(
            lambda key: (
                key[0] != 0
                if kind == VPIDS
                else key[0] == vpid and (kind != VPIDS_ADDRESS or key[4] == prefix(gva, key[3]))
            )
        )

    def flush_vpid(self, vpid: int) -> None:
        """All of a VPID."""
        self._drop(lambda key, entry: key[0] == vpid)
        self._drop_tables(lambda key: key[0] == vpid)

    def flush_pcid(self, vpid: int, pcid: int) -> None:
        """All of a PCID, global or not."""
        self._drop(lambda key, entry: key[:2] == (vpid, pcid))
        self._drop_tables(lambda key: key[:2] == (vpid, pcid))

    def invept(self, eptp: int | None) -> None:
        """INVEPT: everything that was made by the tables of this EPTP, or of all."""
        root = None if eptp is None else eptp & EP4TA
        self._drop(lambda key, entry: root in (None, key[2]))
        self._drop_tables(lambda key: root in (None, key[2]))
        self.guest_physical = {key: it for key, it in self.guest_physical.items() if root not in (None, key[0])}
        self.ept_tables = {key: table for key, table in self.ept_tables.items() if root not in (None, key[0])}


def same_page(key: CombinedKey, entry: CombinedEntry, gva: int) -> bool:
    """Whether the stage-1 page of an entry, however large, contains the address."""
    return key[3] >> entry[4] == gva >> PAGE_SHIFT + entry[4]
