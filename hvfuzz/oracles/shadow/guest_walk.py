"""A second walker of both stages of translation: reads the tables, sets no flag and fills no cache.

It is exactly as strict as a processor with empty caches: rights of both stages, reserved bits, memory types, and the
write access that setting an accessed or dirty flag needs. It is written from the manuals anew, and shares nothing with
the walker of the machine, which the hypervisor uses.

A processor may use cached entries of the guest's tables until the guest invalidates them. `arrivals` therefore also
starts at each table that a cached paging-structure entry names, and continues with the present bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hvfuzz.machine.addresses import (
    EXEC,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PHYSICAL_RESERVED,
    READ,
    WRITE,
    is_canonical,
)
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.ept import ADDRESS, EP4TA
from hvfuzz.machine.mmu.paging import (
    CR0_WP,
    CR3_PCID,
    CR4_PCIDE,
    CR4_SMAP,
    CR4_SMEP,
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
from hvfuzz.oracles.shadow.stage2_walk import TOP, guest_physical, word_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine
    from hvfuzz.machine.mmu.paging_cache import CombinedTable, CombinedTableKey
    from hvfuzz.machine.physical_memory import PhysicalMemory

PAGE_FAULT: Final = 14
PRESENT, W, U, RSVD, I = 1, 2, 4, 8, 16  # noqa: E741  (the manual's name)
"""Bits of the error code of a #PF."""
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


def refusal(
    machine: Machine,
    vcpu: VCpu,
    gva: int,
    size: int,
    access: int,
    pages: bool | None,
    let_through: Callable[[], None],
) -> tuple[Refusal, int] | None:
    """(exception, its address) that the guest's own access to these bytes raises; None if it succeeds.

    An access that faults by cached entries is tried again by the tables, so the exception is theirs. A part of the
    operand that a cached entry still lets through does not fault (SDM Vol. 3A, 4.10.4.1 and 4.10.4.3): `let_through` is
    called for it.
    """
    if not valid_range(gva, size):
        return GENERAL, gva
    first = min(size, PAGE_SIZE - (gva & PAGE_MASK))
    for start, length in ((gva, first), (gva + first, size - first)):
        found = outcome(machine.memory, vcpu, start, access, pages=pages) if length else 0
        if isinstance(found, Refusal):
            if not leads(machine, vcpu, start, length, access, pages=pages):
                return found, start
            let_through()
    return None


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
    """Which pages the data accesses of the guest's own instructions may use: user pages (True), others (False), or all.

    User pages in ring 3; in ring 0 all, but with SMAP only the others unless RFLAGS.AC is set (SDM Vol. 3A, 4.6.1).
    """
    if vcpu.cpl:
        return True
    return False if vcpu.cr4 & CR4_SMAP and not vcpu.regs[RFLAGS] & RFLAGS_AC else None


class Refusal(NamedTuple):
    """The exception that an access raises: its vector and error code. The address of a #PF is that of the access."""

    vector: int
    error: int


GENERAL: Final = Refusal(13, 0)
"""#GP(0): the address is not canonical (SDM Vol. 1, 3.3.7.1), or stage 2 refuses the access (ABI.md)."""


def guest_virtual(
    memory: PhysicalMemory,
    vcpu: VCpu,
    gva: int,
    access: int,
    flags: bool = True,
    below: CombinedTable | None = None,
    pages: bool | None = None,
) -> int | None:
    """The Hpa of an access at `gva` by a supervisor, ignoring SMAP; None if a stage refuses it. See `outcome`."""
    found = outcome(memory, vcpu, gva, access, flags, below, pages)
    return None if isinstance(found, Refusal) else found


def outcome(
    memory: PhysicalMemory,
    vcpu: VCpu,
    gva: int,
    access: int,
    flags: bool = True,
    below: CombinedTable | None = None,
    pages: bool | None = None,
) -> int | Refusal:
    """The Hpa of an access (READ, WRITE, or EXEC) at `gva`, or the exception that it raises.

    Without `flags`, accessed and dirty flags count as set. With `below`, the walk starts at the table that this cached
    entry names, with the rights that the entries above it gave. `pages`: see `pages_of`; True makes it a user's access.
    The error code of a #PF: SDM Vol. 3A, 4.7 and figure 4-12.
    """
    if not is_canonical(gva):
        return GENERAL
    code = (W if access & WRITE else 0) | (U if pages else 0)
    if access & EXEC and (vcpu.efer & EFER_NXE or vcpu.cr4 & CR4_SMEP):
        code |= I
    # Format of the entries and reserved bits: SDM Vol. 3A, 4.5.
    reserved = PHYSICAL_RESERVED | (0 if vcpu.efer & EFER_NXE else NX)
    top, known, table, writable, of_user, fetched = TOP, None, vcpu.cr3 & ADDRESS, True, True, True
    if below is not None:
        known, table, _, above, some_nx, top = below
        top, writable, of_user, fetched = top - 1, bool(above & RW), bool(above & US), not some_nx
    marked: dict[int, int] = {}
    """Hpa of an entry -> flags that this walk sets in it: a guest can use one table at several levels of a walk."""
    for level in range(top, 0, -1):
        shift = PAGE_SHIFT + 9 * (level - 1)
        place = table | (gva >> shift & 511) << 3
        if known is not None and level == top:
            hpa: int | None = known | place & PAGE_MASK
        else:
            hpa = guest_physical(memory, vcpu.eptp, place, READ, walking=True)
        if hpa is None:
            return GENERAL
        entry = word_at(memory, hpa)
        if entry is None:
            return Refusal(PAGE_FAULT, code | PRESENT | RSVD)  # all ones
        if not entry & P:
            return Refusal(PAGE_FAULT, code)
        entry |= marked.get(hpa, 0)
        leaf = level == 1 or bool(entry & PS)
        within = (1 << shift) - 1
        if (
            entry & reserved
            or (leaf and level == TOP)
            or (leaf and level > 1 and entry & within & ~(PAT_OF_LARGE | (1 << PAGE_SHIFT) - 1))
        ):
            return Refusal(PAGE_FAULT, code | PRESENT | RSVD)
        writable = writable and bool(entry & RW)
        of_user = of_user and bool(entry & US)
        fetched = fetched and not entry & NX
        wanted = A
        if leaf:
            # CR0.WP decides whether a supervisor may write to read-only pages (SDM Vol. 3A, 4.6.1).
            read_only = access & WRITE and not writable and (pages or vcpu.cr0 & CR0_WP)
            if pages not in (None, of_user) or read_only or (access & EXEC and not fetched):
                return Refusal(PAGE_FAULT, code | PRESENT)
            if access & WRITE:
                wanted |= D
        # Setting a flag writes to the entry, which stage 2 must allow (SDM Vol. 3A, 4.8).
        if flags and entry & wanted != wanted:
            if guest_physical(memory, vcpu.eptp, place, WRITE, walking=True) is None:
                return GENERAL
            marked[hpa] = marked.get(hpa, 0) | wanted
        if leaf:
            hpa = guest_physical(memory, vcpu.eptp, entry & ADDRESS & ~within | gva & within, access)
            return GENERAL if hpa is None else hpa
        table = entry & ADDRESS
    return GENERAL


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
        entry = None if hpa is None else word_at(memory, hpa)
        if entry is None or not entry & P or entry & PS:
            return
        table = entry & ADDRESS
        known = guest_physical(memory, vcpu.eptp, table, READ, True)
        if known is None:
            return
        yield level, known
