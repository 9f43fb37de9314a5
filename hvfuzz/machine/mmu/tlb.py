"""The translation lookaside buffer: stale entries stay in use until something invalidates them.

Two kinds of mappings are cached (SDM Vol. 3C, 29.4.2): combined (linear address to Hpa, through both stages) and
guest-physical (Gpa to Hpa, by stage 2 alone). Each entry is for 4 KiB, even of a large page. Not-present translations
are never cached. Eviction is first in, first out, so that runs are reproducible. Invalidations also act on the
paging-structure caches (`paging_cache`).
"""

from enum import IntEnum
from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT, is_canonical
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.paging_cache import PagingStructureCaches

DEFAULT_CAPACITY: Final = 64

CombinedKey = tuple[int, int, int, int]
"""(vpid, pcid, ep4ta, gva >> 12)"""
CombinedEntry = tuple[int, int, bool, bool, int, int]
"""(Hpa of the page, rights, user, global, order, Gpa of the page).

`rights` are the READ | WRITE | EXEC that both stages allow; WRITE is absent until the dirty flags are set, so that the
first write walks the tables. `user`: all stage-1 entries had U/S set. `order`: log2 of the number of 4 KiB frames in
the stage-1 page (0, 9, 18), since INVLPG drops all of a large page.
"""
GuestPhysicalKey = tuple[int, int]
"""(ep4ta, gpa >> 12)"""
GuestPhysicalEntry = tuple[int, int, int]
"""(Hpa of the page, rights, order); rights and order as in CombinedEntry, but of stage 2 alone."""


class InvpcidKind(IntEnum):
    """Types of INVPCID (SDM Vol. 2A, INVPCID; Vol. 3A, 4.10.4.1); no paging-structure entry counts as global."""

    ADDRESS = 0
    """The mappings of one linear address and PCID, except global ones."""
    SINGLE = 1
    """The mappings of one PCID, except global ones."""
    ALL_GLOBAL = 2
    """All mappings, including global ones."""
    ALL = 3
    """All mappings, except global ones."""


class InvvpidKind(IntEnum):
    """Types of INVVPID, for all PCIDs and EP4TAs (SDM Vol. 3C, 29.4.3.1, and 31.3, INVVPID)."""

    ADDRESS = 0
    """The mappings of one linear address and VPID, including global ones."""
    SINGLE = 1
    """The mappings of one VPID, including global ones."""
    ALL = 2
    """The mappings of all VPIDs except 0, including global ones."""
    RETAINING_GLOBALS = 3
    """The mappings of one VPID, except global ones."""


class Tlb:
    """Both kinds of cached mappings of one machine, tagged by VPID, PCID and EP4TA; `capacity` of each.

    A global mapping is used only under the PCID that created it, which the manual allows (SDM Vol. 3A, 4.10.2.4).
    The caller of an invalidation charges the clock.
    """

    __slots__ = ("capacity", "combined", "guest_physical", "hits", "losses", "misses", "structures")

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity: int = capacity
        """Number of entries of each kind; change it by `set_capacity`."""
        self.combined: dict[CombinedKey, CombinedEntry] = {}
        self.guest_physical: dict[GuestPhysicalKey, GuestPhysicalEntry] = {}
        self.hits: int = 0
        """Linear accesses served by a combined mapping."""
        self.misses: int = 0
        """Linear accesses that walked the tables."""
        self.losses: int = 0
        """How often entries of any cache of translations were dropped by chance (see `cached_entries`)."""
        self.structures: PagingStructureCaches = PagingStructureCaches(capacity)
        """The paging-structure caches."""

    def insert(self, key: CombinedKey, entry: CombinedEntry) -> None:
        """Cache a combined mapping; evict the oldest if the cache is full."""
        combined = self.combined
        if len(combined) >= self.capacity and key not in combined:
            if self.capacity == 0:
                return
            del combined[next(iter(combined))]
        combined[key] = entry

    def insert_guest_physical(self, key: GuestPhysicalKey, entry: GuestPhysicalEntry) -> None:
        """Cache a guest-physical mapping; evict the oldest if the cache is full."""
        cached = self.guest_physical
        if len(cached) >= self.capacity and key not in cached:
            if self.capacity == 0:
                return
            del cached[next(iter(cached))]
        cached[key] = entry

    def set_capacity(self, capacity: int) -> None:
        """Retain at most `capacity` entries of each kind, here and in the paging-structure caches; evict the oldest.

        Raises ValueError for a negative number.
        """
        if capacity < 0:
            raise ValueError(f"TLB capacity {capacity} is negative")
        self.capacity = capacity
        while len(self.combined) > capacity:
            del self.combined[next(iter(self.combined))]
        while len(self.guest_physical) > capacity:
            del self.guest_physical[next(iter(self.guest_physical))]
        self.structures.set_capacity(capacity)

    def invlpg(self, vpid: int, pcid: int, gva: int) -> None:
        """Drop the mappings of the page of `gva` under this PCID, and its global mappings, for all EP4TAs.

        All of a large page is dropped, and so are all paging-structure entries of the PCID for any address (SDM
        Vol. 3A, 4.10.4.1; Vol. 3C, 29.4.3.1).
        """
        page = gva >> PAGE_SHIFT
        doomed = [
            key
            for key, entry in self.combined.items()
            if key[0] == vpid and (key[1] == pcid or entry[3]) and key[3] >> entry[4] == page >> entry[4]
        ]
        for key in doomed:
            del self.combined[key]
        self.structures.invalidate(vpid, pcid)

    def invpcid(self, kind: int, vpid: int, pcid: int = 0, gva: int = 0) -> None:
        """Drop the mappings of one VPID that an INVPCID of type `kind` drops."""
        page = gva >> PAGE_SHIFT
        doomed = [
            key
            for key, entry in self.combined.items()
            if key[0] == vpid
            and (kind == InvpcidKind.ALL_GLOBAL or not entry[3])
            and (kind in (InvpcidKind.ALL, InvpcidKind.ALL_GLOBAL) or key[1] == pcid)
            and (kind != InvpcidKind.ADDRESS or key[3] >> entry[4] == page >> entry[4])
        ]
        for key in doomed:
            del self.combined[key]
        by_pcid = kind in (InvpcidKind.ADDRESS, InvpcidKind.SINGLE)
        self.structures.invalidate(vpid, pcid if by_pcid else None, gva if kind == InvpcidKind.ADDRESS else None)

    def invvpid(self, kind: int, vpid: int = 0, gva: int = 0) -> None:
        """Drop the mappings that an INVVPID of type `kind` drops. Raises ValueError if it fails (VMfailValid)."""
        if not 0 <= kind <= InvvpidKind.RETAINING_GLOBALS:
            raise ValueError(f"INVVPID type {kind} does not exist")
        if kind == InvvpidKind.ALL:
            for key in [key for key in self.combined if key[0]]:
                del self.combined[key]
            self.structures.invalidate_guests()
            return
        by_address = kind == InvvpidKind.ADDRESS
        if not 0 < vpid < 1 << 16 or (by_address and not is_canonical(gva)):
            raise ValueError(f"invalid operand of INVVPID: VPID {vpid}, address {gva:#x}")
        page = gva >> PAGE_SHIFT
        doomed = [
            key
            for key, entry in self.combined.items()
            if key[0] == vpid
            and not (kind == InvvpidKind.RETAINING_GLOBALS and entry[3])
            and (not by_address or key[3] >> entry[4] == page >> entry[4])
        ]
        for key in doomed:
            del self.combined[key]
        self.structures.invalidate(vpid, None, gva if by_address else None)

    def flush_vpid(self, vpid: int) -> None:
        """Drop all combined mappings of a VPID, including global ones.

        MOV to CR4 does this; and VM entries and exits do it for VPID 0 if the vCPU has no VPID.
        """
        for key in [key for key in self.combined if key[0] == vpid]:
            del self.combined[key]
        self.structures.invalidate(vpid)

    def flush_pcid(self, vpid: int, pcid: int) -> None:
        """Drop all combined mappings of a PCID, including global ones, as setting CR4.SMEP does."""
        for key in [key for key in self.combined if key[0] == vpid and key[1] == pcid]:
            del self.combined[key]
        self.structures.invalidate(vpid, pcid)

    def invept(self, eptp: int | None) -> None:
        """INVEPT: drop the guest-physical and combined mappings of one EP4TA, or of all if `eptp` is None."""
        self.structures.invept(eptp)
        if eptp is None:
            self.combined.clear()
            self.guest_physical.clear()
            return
        ep4ta = eptp & EP4TA
        for key in [key for key in self.combined if key[2] == ep4ta]:
            del self.combined[key]
        for guest_key in [guest_key for guest_key in self.guest_physical if guest_key[0] == ep4ta]:
            del self.guest_physical[guest_key]
