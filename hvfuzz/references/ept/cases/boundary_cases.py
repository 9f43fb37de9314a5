"""Systematic cases: each bit and each combination of rights at each level, one thing varied at a time."""

from collections.abc import Iterator
from itertools import product
from typing import Final

from hvfuzz.machine.mmu import ept, paging
from hvfuzz.references.ept.case import Case, Kind
from hvfuzz.references.ept.cases.case_builder import CaseBuilder
from hvfuzz.references.ept.memory_map import EPT_ROOT, GUEST_TABLES, LEVELS, PDPTES, PDPTES_OFFSET, Part

ACCESSES: Final = (Kind.LOAD, Kind.STORE, Kind.FETCH)
FETCH_OFFSETS: Final = (0x340, 0x7F8, 0xFF8)
"""Offsets in a page at which code may run, since no table has an entry there."""
PARTS: Final = (Part.DATA, *GUEST_TABLES)
_BITS: Final = range(64)


def new_builder(kind: Kind, user: bool = False, accessed_dirty: bool = False) -> CaseBuilder:
    """A builder of a case whose access succeeds."""
    builder = CaseBuilder(kind, user)
    builder.accessed_dirty(accessed_dirty)
    if kind is Kind.FETCH:
        builder.offset = FETCH_OFFSETS[0]
    return builder


def boundary_cases() -> Iterator[Case]:
    """All boundary cases, in a fixed order."""
    yield from _ept_rights()
    yield from _ept_pairs()
    yield from _ept_bits()
    yield from _ept_memory_types()
    yield from _ept_flags()
    yield from _eptps()
    yield from _guest_bits()
    yield from _guest_rights()
    yield from _guest_flags()
    yield from _refused_flags()
    yield from _addresses()
    yield from _crossings()
    yield from _pdptes()


def _ept_rights() -> Iterator[Case]:
    """Every value of R, W, X at each level of each part, for each kind of access."""
    for part, level, rights, kind, enabled in product(PARTS, LEVELS, range(8), ACCESSES, (False, True)):
        builder = new_builder(kind, accessed_dirty=enabled)
        hpa = builder.ept(part, level)
        builder[hpa] = builder[hpa] & ~ept.RIGHTS | rights
        yield builder.finish(f"EPT rights of {part.name} at level {level}")


def _ept_pairs() -> Iterator[Case]:
    """Every combination of rights at two levels of the data."""
    for (upper, lower), above, below, kind in product(((4, 3), (3, 2), (2, 1), (3, 1)), range(8), range(8), ACCESSES):
        builder = new_builder(kind, user=True)
        for level, rights in ((upper, above), (lower, below)):
            hpa = builder.ept(Part.DATA, level)
            builder[hpa] = builder[hpa] & ~ept.RIGHTS | rights
        yield builder.finish(f"EPT rights at levels {upper} and {lower}")


def _ept_bits() -> Iterator[Case]:
    """Every bit of EPT entries and leaves at each level, for the data and for a guest table."""
    for part, leaf, level, bit in product((Part.DATA, Part.PD), (1, 2, 3), LEVELS, _BITS):
        if level < leaf:
            continue
        builder = new_builder(ACCESSES[(bit + level + leaf) % 3], accessed_dirty=bool(bit & 1) ^ (level == leaf))
        builder.map_ept(part, leaf)
        hpa = builder.ept(part, level)
        if builder.may_flip(hpa, bit):
            builder.flip(hpa, 1 << bit)
            yield builder.finish(f"bit {bit} of the EPT entry of {part.name} at level {level}, leaf at {leaf}")


def _ept_memory_types() -> Iterator[Case]:
    """Every memory type, with and without ignore-PAT, in leaves of every size."""
    for part, leaf, memory_type, pat, kind in product((Part.DATA, Part.PT), (1, 2, 3), range(8), (0, 1), ACCESSES):
        builder = new_builder(kind)
        builder.map_ept(part, leaf)
        hpa = builder.ept(part, leaf)
        builder[hpa] = builder[hpa] & ~ept.MEMORY_TYPE | memory_type << ept.MEMORY_TYPE_SHIFT | pat * ept.IGNORE_PAT
        yield builder.finish(f"memory type {memory_type} of {part.name}")


def _ept_flags() -> Iterator[Case]:
    """EPT accessed and dirty flags, enabled or disabled, set or clear before the access, at each level."""
    kinds = (*ACCESSES, Kind.UPDATE)
    for part, leaf, level, flags, kind, enabled in product(PARTS, (1, 2, 3), LEVELS, range(4), kinds, (False, True)):
        if level < leaf or (part in GUEST_TABLES and kind is Kind.FETCH):
            continue
        builder = new_builder(kind, accessed_dirty=enabled)
        builder.map_ept(part, leaf)
        for hpa in builder.ept_path(part):
            builder[hpa] |= ept.ACCESSED | ept.DIRTY
        hpa = builder.ept(part, level)
        builder[hpa] = builder[hpa] & ~(ept.ACCESSED | ept.DIRTY) | flags * ept.ACCESSED
        yield builder.finish(f"EPT accessed and dirty flags of {part.name} at level {level}")


def _eptps() -> Iterator[Case]:
    """Every bit of the EPTP, and every memory type with every walk length."""
    for bit in _BITS:
        builder = new_builder(ACCESSES[bit % 3])
        if not 22 <= bit < 28:
            builder.eptp ^= 1 << bit
            yield builder.finish(f"bit {bit} of the EPTP")
    for memory_type, length, enabled in product(range(8), range(8), (False, True)):
        builder = new_builder(Kind.LOAD)
        builder.eptp = EPT_ROOT | length << 3 | memory_type
        builder.accessed_dirty(enabled)
        yield builder.finish(f"EPTP with memory type {memory_type} and walk length {length + 1}")


def _guest_bits() -> Iterator[Case]:
    """Every bit of guest entries, with leaves of each size, with EPT accessed and dirty flags disabled and enabled."""
    for leaf, level, bit, enabled, no_nxe in product((1, 2, 3), LEVELS, _BITS, (False, True), (False, True)):
        if level < leaf or (no_nxe and bit != 63):
            continue
        for kind in ACCESSES if bit in (0, 1, 2, 5, 6, 63) else (ACCESSES[(bit + level) % 3],):
            builder = new_builder(kind, user=bool(bit & 1), accessed_dirty=enabled)
            builder.map_guest(leaf)
            if no_nxe:
                builder.efer &= ~paging.EFER_NXE
            hpa = builder.guest(level)
            builder.flip(hpa, 1 << bit)
            yield builder.finish(f"bit {bit} of the guest entry at level {level}, leaf at {leaf}")


def _guest_rights() -> Iterator[Case]:
    """R/W, U/S and XD of the leaf, with every CPL, access, CR0.WP, CR4.SMEP, CR4.SMAP and RFLAGS.AC."""
    for leaf, kind, user, enabled in product(range(8), ACCESSES, (False, True), range(16)):
        builder = new_builder(kind, user)
        hpa = builder.guest(1)
        bits = (paging.RW if leaf & 1 else 0) | (paging.US if leaf & 2 else 0) | (paging.NX if leaf & 4 else 0)
        builder[hpa] = builder[hpa] & ~(paging.RW | paging.US | paging.NX) | bits
        builder.cr0 = builder.cr0 & ~paging.CR0_WP | (paging.CR0_WP if enabled & 1 else 0)
        builder.cr4 |= (paging.CR4_SMEP if enabled & 2 else 0) | (paging.CR4_SMAP if enabled & 4 else 0)
        builder.rflags |= paging.RFLAGS_AC if enabled & 8 else 0
        yield builder.finish("guest rights of the leaf")


def _guest_flags() -> Iterator[Case]:
    """Guest accessed and dirty flags at each level, with and without write permission of EPT for the table."""
    kinds = (Kind.LOAD, Kind.STORE, Kind.UPDATE)
    for leaf, level, flags, kind, rights, enabled in product(
        (1, 2, 3), LEVELS, range(4), kinds, (1, 3, 4, 5, 7), (False, True)
    ):
        if level < leaf:
            continue
        builder = new_builder(kind, user=True, accessed_dirty=enabled)
        builder.map_guest(leaf)
        hpa = builder.guest(level)
        builder[hpa] = builder[hpa] & ~(paging.A | paging.D) | flags * paging.A
        table = builder.ept(GUEST_TABLES[4 - level], 1)
        builder[table] = builder[table] & ~ept.RIGHTS | rights
        yield builder.finish(f"guest accessed and dirty flags at level {level}")


def _refused_flags() -> Iterator[Case]:
    """Guest flags to set in a table that EPT makes read-only, for accesses that the guest allows or refuses."""
    refusals = (0, paging.RW, paging.US, paging.RW | paging.US, paging.NX)
    for leaf, kind, user, refusal, enabled in product((1, 2, 3), ACCESSES, (False, True), refusals, (False, True)):
        builder = new_builder(kind, user=user, accessed_dirty=enabled)
        builder.map_guest(leaf)
        builder.flip(builder.guest(leaf), refusal | paging.A)
        table = builder.ept(GUEST_TABLES[4 - leaf], 1)
        builder[table] &= ~ept.RIGHTS | 1
        yield builder.finish(f"guest flags in a read-only table at level {leaf}")


def _addresses() -> Iterator[Case]:
    """Borders of canonical addresses, both halves of the linear addresses, unaligned operands."""
    borders = (0, 0x7FFF_FFFF_F000, 0x8000_0000_0000, 0xFFFF_7FFF_FFFF_F000, 0xFFFF_8000_0000_0000, (1 << 64) - 0x1000)
    for border, kind, user in product(borders, (*ACCESSES, Kind.UPDATE), (False, True)):
        builder = new_builder(kind, user)
        builder.gva = border
        yield builder.finish("canonical borders")
    for bit, kind in product(range(47, 64), ACCESSES):
        builder = new_builder(kind)
        builder.gva = builder.finish("").gva ^ 1 << bit
        yield builder.finish(f"bit {bit} of the linear address")
    for kind, user, align in product((Kind.LOAD, Kind.STORE), (False, True), range(4)):
        builder = new_builder(kind, user)
        builder.high = bool(align & 1)
        builder.offset = 0x123
        builder.cr0 |= paging.CR0_AM if align & 1 else 0
        builder.rflags |= paging.RFLAGS_AC if align & 2 else 0
        yield builder.finish("unaligned operand")


def _crossings() -> Iterator[Case]:
    """An operand that crosses a page, of which EPT or the guest's tables may refuse the first or the second."""
    for kind, first, second, enabled in product((Kind.LOAD, Kind.STORE), range(8), range(8), (False, True)):
        builder = new_builder(kind, user=True, accessed_dirty=enabled)
        builder.offset = 0xFFC
        for hpa, rights in ((builder.ept(Part.DATA, 1), first), (builder.ept(Part.DATA, 1) + 8, second)):
            builder[hpa] = builder[hpa] & ~ept.RIGHTS | rights
        yield builder.finish("EPT rights of two pages of an operand")
    for kind, place, bit, leaf in product((Kind.LOAD, Kind.STORE), (0, 8), (0, 1, 2, 5, 6, 45), (1, 2, 3)):
        builder = new_builder(kind, user=True)
        builder.offset = 0xFF9
        builder.map_guest(leaf)
        if leaf == 1 or place == 0:
            builder.flip(builder.guest(leaf) + place, 1 << bit)
        yield builder.finish("guest entries of two pages of an operand")


def _pdptes() -> Iterator[Case]:
    """Loads of PDPTEs, which are accesses without a linear address."""
    for level, rights, enabled, leaf in product(LEVELS, range(8), (False, True), (1, 2, 3)):
        if level < leaf:
            continue
        builder = pdptes_builder(leaf)
        builder.accessed_dirty(enabled)
        hpa = builder.ept(Part.DATA, level)
        builder[hpa] = builder[hpa] & ~ept.RIGHTS | rights
        yield builder.finish(f"EPT rights of a PDPT at level {level}")
    for leaf, level, bit in product((1, 2, 3), LEVELS, _BITS):
        builder = pdptes_builder(leaf)
        hpa = builder.ept(Part.DATA, level)
        if level >= leaf and builder.may_flip(hpa, bit):
            builder.accessed_dirty(bool(bit & 1))
            builder.flip(hpa, 1 << bit)
            yield builder.finish(f"bit {bit} of the EPT entry of a PDPT at level {level}, leaf at {leaf}")


def pdptes_builder(leaf: int) -> CaseBuilder:
    """A builder of a load of PDPTEs; with an EPT leaf of level 1, from the page PDPTES, which has valid ones."""
    builder = new_builder(Kind.PDPTES)
    builder.move(Part.DATA, 0)
    builder.map_ept(Part.DATA, leaf)
    if leaf == 1:
        hpa = builder.ept(Part.DATA, 1)
        builder[hpa] = builder[hpa] & 0xFFF | PDPTES
    builder.offset = PDPTES_OFFSET
    return builder
