"""Paging-structure caches: where a table lies, so that a walk need not start at the root (SDM Vol. 3A, 4.10.3).

                    PML4E       PDPTE        PDE         PTE
    linear 47..39 ----+           |           |           |       a cached PML4E   spares the first read
    linear 47..30 ----+-----------+           |           |       a cached PDPTE   spares two
    linear 47..21 ----+-----------+-----------+           |       a cached PDE     spares three

There are two kinds. Combined entries (Vol. 3C, 29.4.2) hold the host's address of the guest's next table, so they spare
the reads of stage 1 above it, and all of stage 2 for these and for that table. Guest-physical ones hold the address of
the next EPT table. Both hold the rights of the entries so far, and stay in use until something drops them, whatever
becomes of those entries. Only entries that name a table, have no reserved bit and their accessed flag set are kept, and
only when the translation that read them succeeds: a fault would drop them at once (Vol. 3A, 4.10.4.1).
"""

from typing import Final

from hvfuzz.machine.mmu.ept import EP4TA

SHIFTS: Final = (0, 12, 21, 30, 39)
"""By level of the cached entry (4: PML4E, 3: PDPTE, 2: PDE): it is for the address bits from this one up."""

CombinedTableKey = tuple[int, int, int, int, int]
"""(vpid, pcid, ep4ta, level of the entry, gva >> SHIFTS[level])"""
CombinedTable = tuple[int, int, int, int, int, int]
"""(Hpa of the table, its Gpa, rights of stage 2 to it, RW and US of all entries so far, NX of any, level)"""
GuestPhysicalTableKey = tuple[int, int, int]
"""(ep4ta, level of the entry, gpa >> SHIFTS[level])"""
GuestPhysicalTable = tuple[int, int, int]
"""(Hpa of the EPT table, rights of all entries so far, level of the entry)"""


class PagingStructureCaches:
    """Both kinds of one machine, all levels of a kind in one cache of `capacity` entries, first in, first out.

    `Tlb` hands on what software invalidates.
    """

    __slots__ = ("capacity", "combined", "guest_physical")

    def __init__(self, capacity: int) -> None:
        self.capacity: int = capacity
        self.combined: dict[CombinedTableKey, CombinedTable] = {}
        self.guest_physical: dict[GuestPhysicalTableKey, GuestPhysicalTable] = {}

    def set_capacity(self, capacity: int) -> None:
        """Retain at most `capacity` entries of each kind from now on (0: none), evicting the oldest."""
        self.capacity = capacity
        while len(self.combined) > capacity:
            del self.combined[next(iter(self.combined))]
        while len(self.guest_physical) > capacity:
            del self.guest_physical[next(iter(self.guest_physical))]

    # Walks.

    def keep(self, vpid: int, pcid: int, ep4ta: int, gva: int, tables: list[CombinedTable]) -> None:
        """Cache the tables that a walk for `gva` came through."""
        combined = self.combined
        for table in tables:
            combined[vpid, pcid, ep4ta, table[5], gva >> SHIFTS[table[5]]] = table
        while len(combined) > self.capacity:
            del combined[next(iter(combined))]

    def forget(self, vpid: int, pcid: int, ep4ta: int, gva: int) -> None:
        """Drop what a walk for `gva` would use: a page fault or an EPT violation does (Vol. 3A, 4.10.4.1)."""
        for level in (2, 3, 4):
            self.combined.pop((vpid, pcid, ep4ta, level, gva >> SHIFTS[level]), None)

    def keep_ept(self, ep4ta: int, gpa: int, tables: list[GuestPhysicalTable]) -> None:
        """Cache the EPT tables that a walk for `gpa` came through."""
        cached = self.guest_physical
        for table in tables:
            cached[ep4ta, table[2], gpa >> SHIFTS[table[2]]] = table
        while len(cached) > self.capacity:
            del cached[next(iter(cached))]

    def forget_ept(self, ep4ta: int, gpa: int) -> None:
        """Drop what a walk for `gpa` would use: an EPT violation does (Vol. 3C, 29.4.3.1)."""
        for level in (2, 3, 4):
            self.guest_physical.pop((ep4ta, level, gpa >> SHIFTS[level]), None)

    # Invalidations.

    def invalidate(self, vpid: int, pcid: int | None = None, gva: int | None = None) -> None:
        """Drop the combined entries of a VPID, whatever their EP4TA: those of one PCID, or for one address, if given.

        No such entry is global, whatever the leaves below it are.
        """
        doomed = [
            key
            for key in self.combined
            if key[0] == vpid and (pcid is None or key[1] == pcid) and (gva is None or key[4] == gva >> SHIFTS[key[3]])
        ]
        for key in doomed:
            del self.combined[key]

    def invalidate_guests(self) -> None:
        """Drop the combined entries of every VPID but the host's, 0."""
        for key in [key for key in self.combined if key[0]]:
            del self.combined[key]

    def invept(self, eptp: int | None) -> None:
        """Drop the entries of both kinds of one EP4TA, or of all."""
        if eptp is None:
            self.combined.clear()
            self.guest_physical.clear()
            return
        ep4ta = eptp & EP4TA
        for key in [key for key in self.combined if key[2] == ep4ta]:
            del self.combined[key]
        for guest_key in [guest_key for guest_key in self.guest_physical if guest_key[0] == ep4ta]:
            del self.guest_physical[guest_key]
