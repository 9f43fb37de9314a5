"""A second walker of stage 2: reads the tables, sets no flag and fills no cache.

Written from the manual anew, as `guest_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PHYSICAL_RESERVED, READ, WRITE
from hvfuzz.machine.mmu.ept import (
    ADDRESS,
    EPTP_ACCESSED_DIRTY,
    LARGE,
    MEMORY_TYPE,
    MEMORY_TYPE_SHIFT,
    RIGHTS,
    MemoryType,
)

if TYPE_CHECKING:
    from hvfuzz.machine.physical_memory import PhysicalMemory

TOP: Final = 4
"""Levels of both stages."""
TYPES: Final = frozenset(MemoryType)


def guest_physical(memory: PhysicalMemory, eptp: int, gpa: int, access: int, walking: bool = False) -> int | None:
    """The Hpa that stage 2 gives for `gpa`; None if it refuses the access, or an entry on the way is invalid.

    `walking`: the access is to a paging structure of the guest.
    """
    # With EPT flags enabled, accesses to paging structures count as writes (SDM Vol. 3C, 29.3.5).
    if walking and eptp & EPTP_ACCESSED_DIRTY:
        access |= WRITE
    if gpa >> PAGE_SHIFT + 9 * TOP:
        return None
    table = eptp & ADDRESS
    rights = RIGHTS
    for level in range(TOP, 0, -1):
        shift = PAGE_SHIFT + 9 * (level - 1)
        entry = word_at(memory, table | (gpa >> shift & 511) << 3)
        # Absent entries violate; reserved bits, and writes without reads, are misconfigured (SDM Vol. 3C, 29.3.3.1).
        if entry is None or not entry & RIGHTS or entry & PHYSICAL_RESERVED or entry & (READ | WRITE) == WRITE:
            return None
        rights &= entry
        leaf = level == 1 or bool(entry & LARGE)
        if not leaf:
            # Bits 6..3 of an entry that names a table are reserved (SDM Vol. 3C, 29.3.2).
            if entry & (LARGE - 1) & ~RIGHTS:
                return None
            table = entry & ADDRESS
            continue
        within = (1 << shift) - 1
        if level == TOP or entry & within >> PAGE_SHIFT << PAGE_SHIFT:
            return None
        # Memory types: 29.3.3.1. Rights are the AND of all entries on the way: 29.3.3.2.
        if (entry & MEMORY_TYPE) >> MEMORY_TYPE_SHIFT not in TYPES or rights & access != access:
            return None
        return entry & ADDRESS | gpa & within
    return None


def ept_table(memory: PhysicalMemory, root: int, gpa: int, level: int) -> tuple[int, int] | None:
    """(Hpa, rights so far) of the table that the EPT entry of `level` for `gpa` names; None if it names none."""
    table, rights = root, RIGHTS
    for each in range(TOP, level - 1, -1):
        entry = word_at(memory, table | (gpa >> PAGE_SHIFT + 9 * (each - 1) & 511) << 3)
        if entry is None or not entry & RIGHTS or entry & LARGE:
            return None
        table, rights = entry & ADDRESS, rights & entry
    return table, rights


def word_at(memory: PhysicalMemory, hpa: int) -> int | None:
    """The word at `hpa`; None beyond memory, where reads give all ones, which is a valid entry of no table."""
    if hpa >= memory.size:
        return None
    word: int = memory.words[hpa >> 3]
    return word
