"""The translation lookaside buffer: stale entries stay in use until something invalidates them.

Two kinds of mappings are cached (SDM Vol. 3C, 29.4.2), each for 4 KiB whatever the page size in the tables:
combined ones (linear address to Hpa, through both stages) and guest-physical ones (Gpa to Hpa, stage 2 alone).
Not-present translations are never cached. Eviction is first in, first out, so a run can be repeated exactly.
"""

from enum import IntEnum
from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.ept import EP4TA

DEFAULT_CAPACITY: Final = 64

CombinedKey = tuple[int, int, int, int]
"""(vpid, pcid, ep4ta, gva >> 12)"""
CombinedEntry = tuple[int, int, bool, bool, int, int]
"""(Hpa of the page, rights, user, global, order, Gpa of the page).

`rights` are READ | WRITE | EXEC as both stages allow them together; WRITE is there only once the dirty flags are
set, so that the first write walks the tables. `user`: all stage-1 entries had U/S. `order`: log2 of the 4 KiB
frames in the stage-1 page (0, 9, 18), for INVLPG drops all of a large page.
"""
GuestPhysicalKey = tuple[int, int]
"""(ep4ta, gpa >> 12)"""
GuestPhysicalEntry = tuple[int, int, int]
"""(Hpa of the page, rights, order); rights and order are those of stage 2."""


class InvpcidKind(IntEnum):
    """What an INVPCID invalidates (SDM Vol. 2A, INVPCID)."""

    ADDRESS = 0
    """The mappings of one linear address and PCID, except global ones."""
    SINGLE = 1
    """The mappings of one PCID, except global ones."""
    ALL_GLOBAL = 2
    """All mappings, global ones too."""
    ALL = 3
    """All mappings, except global ones."""


class Tlb:
    """Both kinds of cached mappings of one machine, tagged by VPID, PCID and EP4TA; `capacity` of each.

    A global mapping is used under the PCID that made it only, which the manual allows (SDM Vol. 3A, 4.10.2.4).
    The caller of an invalidation charges the clock.
    """

    __slots__ = ("capacity", "combined", "guest_physical", "hits", "misses")

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity: int = capacity
        """Entries retained of each kind; change it by `set_capacity`."""
        self.combined: dict[CombinedKey, CombinedEntry] = {}
        self.guest_physical: dict[GuestPhysicalKey, GuestPhysicalEntry] = {}
        self.hits: int = 0
        """Linear accesses served by a combined mapping."""
        self.misses: int = 0
        """Linear accesses that walked the tables."""

    def insert(self, key: CombinedKey, entry: CombinedEntry) -> None:
        """Cache a combined mapping, evicting the oldest if there is no room."""
        combined = self.combined
        if len(combined) >= self.capacity and key not in combined:
            if self.capacity == 0:
                return
            del combined[next(iter(combined))]
        combined[key] = entry

    def insert_guest_physical(self, key: GuestPhysicalKey, entry: GuestPhysicalEntry) -> None:
        """Cache a guest-physical mapping, evicting the oldest if there is no room."""
        cached = self.guest_physical
        if len(cached) >= self.capacity and key not in cached:
            if self.capacity == 0:
                return
            del cached[next(iter(cached))]
        cached[key] = entry

    def set_capacity(self, capacity: int) -> None:
        """Retain at most `capacity` entries of each kind from now on (0: none), evicting the oldest."""
        if capacity < 0:
            raise ValueError(f"TLB capacity {capacity} is negative")
        self.capacity = capacity
        while len(self.combined) > capacity:
            del self.combined[next(iter(self.combined))]
        while len(self.guest_physical) > capacity:
            del self.guest_physical[next(iter(self.guest_physical))]

    def invlpg(self, vpid: int, pcid: int, gva: int) -> None:
        """Drop what maps the page of `gva` under this PCID, and global mappings of it, whatever the EP4TA.

        Where the page is a large one, all of it goes (SDM Vol. 3A, 4.10.4.1; Vol. 3C, 29.4.3.1).
        """
        page = gva >> PAGE_SHIFT
        doomed = [
            key
            for key, entry in self.combined.items()
            if key[0] == vpid and (key[1] == pcid or entry[3]) and key[3] >> entry[4] == page >> entry[4]
        ]
        for key in doomed:
            del self.combined[key]

    def invpcid(self, kind: int, vpid: int, pcid: int = 0, gva: int = 0) -> None:
        """Drop the mappings of one VPID that an INVPCID of this `kind` drops."""
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

    def flush_vpid(self, vpid: int) -> None:
        """Drop all combined mappings of a VPID, global ones too (INVVPID, single-context)."""
        for key in [key for key in self.combined if key[0] == vpid]:
            del self.combined[key]

    def flush_pcid(self, vpid: int, pcid: int) -> None:
        """Drop all combined mappings of a PCID, global ones too (what setting CR4.SMEP does)."""
        for key in [key for key in self.combined if key[0] == vpid and key[1] == pcid]:
            del self.combined[key]

    def invept(self, eptp: int | None) -> None:
        """Drop the guest-physical and the combined mappings of one EP4TA (INVEPT single-context), or of all."""
        if eptp is None:
            self.combined.clear()
            self.guest_physical.clear()
            return
        ep4ta = eptp & EP4TA
        for key in [key for key in self.combined if key[2] == ep4ta]:
            del self.combined[key]
        for guest_key in [guest_key for guest_key in self.guest_physical if guest_key[0] == ep4ta]:
            del self.guest_physical[guest_key]
