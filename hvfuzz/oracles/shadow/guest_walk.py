"""A second walker of both stages of translation: reads the tables, sets no flag and fills no cache.

It is exactly as strict as a processor with empty caches: rights of both stages, reserved bits, memory types, and the
write access that setting an accessed or dirty flag needs. It is written from the manuals anew, and shares nothing with
the walker of the machine, which the hypervisor uses.

A processor may use cached entries of the guest's tables until the guest invalidates them. `arrivals` therefore also
starts at each table that a cached paging-structure entry names, and continues with the present bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PHYSICAL_RESERVED, READ, WRITE, is_canonical
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.ept import (
    ADDRESS,
    EP4TA,
    EPTP_ACCESSED_DIRTY,
    LARGE,
    MEMORY_TYPE,
    MEMORY_TYPE_SHIFT,
    RIGHTS,
    MemoryType,
)
from hvfuzz.machine.mmu.paging import (
    CR0_WP,
    CR3_PCID,
    CR4_PCIDE,
    CR4_SMAP,
    EFER_NXE,
    NX,
    PS,
    RFLAGS_AC,
    RW,
    US,
    A,
    D,
    P,
)
from hvfuzz.oracles.contract.spec import valid_range

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine
    from hvfuzz.machine.mmu.paging_cache import CombinedTable, CombinedTableKey
    from hvfuzz.machine.physical_memory import PhysicalMemory

TOP: Final = 4
"""Levels of both stages."""
TYPES: Final = frozenset(MemoryType)
PAT_OF_LARGE: Final = 1 << 12
"""PAT bit of a large stage-1 leaf: neither part of the address nor reserved."""


def leads(
    machine: Machine, vcpu: VCpu, gva: int, size: int, access: int, flags: bool = True, pages: bool | None = None
) -> bool:
    """Whether the host can access these bytes on behalf of the vCPU, by the TLB or by the tables.

    `flags`, `pages`: see `guest_virtual`.
    """
    if not valid_range(gva, size):
        return False
    combined = machine.tlb.combined
    pcid = vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0
    for page in range(gva >> PAGE_SHIFT, (gva + size - 1 >> PAGE_SHIFT) + 1):
        cached = combined.get((vcpu.vpid, pcid, vcpu.eptp & EP4TA, page))
        if cached is not None and cached[1] & access == access and pages in (None, cached[2]):
            continue
        if not any(True for _ in arrivals(machine, vcpu, page << PAGE_SHIFT, access, flags, pages)):
            return False
    return True


def arrivals(
    machine: Machine,
    vcpu: VCpu,
    gva: int,
    access: int,
    flags: bool = True,
    pages: bool | None = None,
    tables: Mapping[CombinedTableKey, CombinedTable] | None = None,
) -> Iterator[int]:
    """The results of `guest_virtual` from the root, and from each table on the way that a cached entry names.

    `tables` are the cached entries; None: those that the processor has now.
    """
    pcid = vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0
    cached = machine.tlb.structures.combined if tables is None else tables
    below: CombinedTable | None = None
    for level in range(TOP + 1, 1, -1):
        if level <= TOP:
            below = cached.get((vcpu.vpid, pcid, vcpu.eptp & EP4TA, level, gva >> PAGE_SHIFT + 9 * (level - 1)))
            if below is None:
                continue
        hpa = guest_virtual(machine.memory, vcpu, gva, access, flags, below, pages)
        if hpa is not None:
            yield hpa


def pages_of(vcpu: VCpu) -> bool | None:
    """Which pages the guest's own instructions may access: user pages (True), others (False), or both (None).

    User pages in ring 3; in ring 0 all, but with SMAP only the others unless RFLAGS.AC is set (SDM Vol. 3A, 4.6.1).
    """
    if vcpu.cpl:
        return True
    return False if vcpu.cr4 & CR4_SMAP and not vcpu.regs[RFLAGS] & RFLAGS_AC else None


def guest_virtual(
    memory: PhysicalMemory,
    vcpu: VCpu,
    gva: int,
    access: int,
    flags: bool = True,
    below: CombinedTable | None = None,
    pages: bool | None = None,
) -> int | None:
    """The Hpa of a supervisor's READ or WRITE at `gva`, ignoring SMAP; None if a stage refuses the access.

    Without `flags`, accessed and dirty flags count as set. With `below`, the walk starts at the table that this cached
    entry names, with the rights that the entries above it gave. `pages`: see `pages_of`; True makes it a user's access.
    """
    if not is_canonical(gva):
        return None
    # Format of the entries and reserved bits: SDM Vol. 3A, 4.5.
    reserved = PHYSICAL_RESERVED | (0 if vcpu.efer & EFER_NXE else NX)
    top, known, table, writable, of_user = TOP, None, vcpu.cr3 & ADDRESS, True, True
    if below is not None:
        known, table, _, above, _, top = below
        top, writable, of_user = top - 1, bool(above & RW), bool(above & US)
    marked: dict[int, int] = {}
    """Hpa of an entry -> flags that this walk sets in it: a guest can use one table at several levels of a walk."""
    for level in range(top, 0, -1):
        shift = PAGE_SHIFT + 9 * (level - 1)
        place = table | (gva >> shift & 511) << 3
        if known is not None and level == top:
            hpa: int | None = known | place & PAGE_MASK
        else:
            hpa = guest_physical(memory, vcpu.eptp, place, READ, walking=True)
        entry = None if hpa is None else _word(memory, hpa)
        if hpa is None or entry is None or not entry & P:
            return None
        entry |= marked.get(hpa, 0)
        leaf = level == 1 or bool(entry & PS)
        within = (1 << shift) - 1
        if entry & reserved or (leaf and level == TOP):
            return None
        if leaf and level > 1 and entry & within & ~(PAT_OF_LARGE | (1 << PAGE_SHIFT) - 1):
            return None
        # CR0.WP decides whether a supervisor may write to read-only pages (SDM Vol. 3A, 4.6.1).
        writable = writable and bool(entry & RW)
        of_user = of_user and bool(entry & US)
        if leaf and pages not in (None, of_user):
            return None
        wanted = A
        if leaf and access & WRITE:
            if not writable and (pages or vcpu.cr0 & CR0_WP):
                return None
            wanted |= D
        # Setting a flag writes to the entry, which stage 2 must allow (SDM Vol. 3A, 4.8).
        if flags and entry & wanted != wanted:
            if guest_physical(memory, vcpu.eptp, place, WRITE, walking=True) is None:
                return None
            marked[hpa] = marked.get(hpa, 0) | wanted
        if leaf:
            return guest_physical(memory, vcpu.eptp, entry & ADDRESS & ~within | gva & within, access)
        table = entry & ADDRESS
    return None


def guest_tables(
    memory: PhysicalMemory, vcpu: VCpu, gva: int, below: CombinedTable | None = None
) -> Iterator[tuple[int, int]]:
    """(level, Hpa of the table) for each entry that names a table on the way to `gva`; `below`: see `guest_virtual`."""
    top, known, table = TOP, None, vcpu.cr3 & ADDRESS
    if below is not None:
        known, table, top = below[0], below[1], below[5] - 1
    for level in range(top, 1, -1):
        place = table | (gva >> PAGE_SHIFT + 9 * (level - 1) & 511) << 3
        hpa = known | place & PAGE_MASK if known is not None else guest_physical(memory, vcpu.eptp, place, READ, True)
        entry = None if hpa is None else _word(memory, hpa)
        if entry is None or not entry & P or entry & PS:
            return
        table = entry & ADDRESS
        known = guest_physical(memory, vcpu.eptp, table, READ, True)
        if known is None:
            return
        yield level, known


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
        entry = _word(memory, table | (gpa >> shift & 511) << 3)
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
        entry = _word(memory, table | (gpa >> PAGE_SHIFT + 9 * (each - 1) & 511) << 3)
        if entry is None or not entry & RIGHTS or entry & LARGE:
            return None
        table, rights = entry & ADDRESS, rights & entry
    return table, rights


def _word(memory: PhysicalMemory, hpa: int) -> int | None:
    """The word at `hpa`; None beyond memory, where reads give all ones, which is a valid entry of no table."""
    if hpa >= memory.size:
        return None
    word: int = memory.words[hpa >> 3]
    return word
