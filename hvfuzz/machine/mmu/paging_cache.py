"""Paging-structure caches: addresses of tables, so that a walk need not begin at the root (SDM Vol. 3A, 4.10.3).

                    PML4E       PDPTE        PDE         PTE
    linear 47..39 ----+           |           |           |       a cached PML4E   saves the first read
    linear 47..30 ----+-----------+           |           |       a cached PDPTE   saves two
    linear 47..21 ----+-----------+-----------+           |       a cached PDE     saves three

There are two kinds. Combined entries (Vol. 3C, 29.4.2) hold the Hpa of the guest's next table, which saves the reads of
stage 1 above that table, and the stage-2 walks for all of them. Guest-physical entries hold the address of the next EPT
table. Both hold the rights of the entries so far, and stay in use until something drops them, even if the entries in
memory have changed. An entry is cached only if it references a table, has its accessed flag set and no reserved bit,
and only if the translation that read it succeeds: a fault would drop it at once (Vol. 3A, 4.10.4.1).
"""

from typing import Final

from hvfuzz.machine.mmu.ept import EP4TA

SHIFTS: Final = (0, 12, 21, 30, 39)
"""Level of the cached entry (4: PML4E, 3: PDPTE, 2: PDE) -> the lowest address bit that selects it."""

CombinedTableKey = tuple[int, int, int, int, int]
"""(vpid, pcid, ep4ta, level of the entry, gva >> SHIFTS[level])"""
CombinedTable = tuple[int, int, int, int, int, int]
"""(Hpa of the table, its Gpa, its stage-2 rights, RW and US of all entries so far, NX of any, level)"""
GuestPhysicalTableKey = tuple[int, int, int]
"""(ep4ta, level of the entry, gpa >> SHIFTS[level])"""
GuestPhysicalTable = tuple[int, int, int]
"""(Hpa of the EPT table, rights of all entries so far, level of the entry)"""


class PagingStructureCaches:
    """Both kinds of one machine. Each is one cache for all levels, of `capacity` entries, first in, first out.

    `Tlb` forwards the invalidations.
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
        """Cache the tables that the walk for `gva` used."""
        combined = self.combined
        for table in tables:
            combined[vpid, pcid, ep4ta, table[5], gva >> SHIFTS[table[5]]] = table
        while len(combined) > self.capacity:
            del combined[next(iter(combined))]

    def forget(self, vpid: int, pcid: int, ep4ta: int, gva: int) -> None:
        """Drop the entries that a walk for `gva` would use, as a page fault does (Vol. 3A, 4.10.4.1)."""
        for level in (2, 3, 4):
            self.combined.pop((vpid, pcid, ep4ta, level, gva >> SHIFTS[level]), None)

    def keep_ept(self, ep4ta: int, gpa: int, tables: list[GuestPhysicalTable]) -> None:
        """Cache the EPT tables that the walk for `gpa` used."""
        cached = self.guest_physical
        for table in tables:
            cached[ep4ta, table[2], gpa >> SHIFTS[table[2]]] = table
        while len(cached) > self.capacity:
            del cached[next(iter(cached))]

    def forget_ept(self, ep4ta: int, gpa: int) -> None:
        """Drop the entries that a walk for `gpa` would use, as an EPT violation does (Vol. 3C, 29.4.3.1)."""
        for level in (2, 3, 4):
            self.guest_physical.pop((ep4ta, level, gpa >> SHIFTS[level]), None)

    # Invalidations.

    def invalidate(self, vpid: int, pcid: int | None = None, gva: int | None = None) -> None:
        """Drop the combined entries of a VPID for all EP4TAs: if given, only those of one PCID or for one address.

        No such entry is global, even if the leaves below it are.
        """
        doomed = [
            key
            for key in self.combined
            if key[0] == vpid and (pcid is None or key[1] == pcid) and (gva is None or key[4] == gva >> SHIFTS[key[3]])
        ]
        for key in doomed:
            del self.combined[key]

    def invalidate_guests(self) -> None:
        """Drop the combined entries of every VPID except 0, the host's."""
        for key in [key for key in self.combined if key[0]]:
            del self.combined[key]

    def invept(self, eptp: int | None) -> None:
        """Drop the entries of both kinds for one EP4TA, or for all if `eptp` is None."""
        if eptp is None:
            self.combined.clear()
            self.guest_physical.clear()
            return
        ep4ta = eptp & EP4TA
        for key in [key for key in self.combined if key[2] == ep4ta]:
            del self.combined[key]
        for guest_key in [guest_key for guest_key in self.guest_physical if guest_key[0] == ep4ta]:
            del self.guest_physical[guest_key]
