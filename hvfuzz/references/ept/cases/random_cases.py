"""Random cases from a seeded generator: random page sizes, flags and control bits, and up to three faults."""

from collections.abc import Iterator
from itertools import chain, count
from random import Random
from typing import Final

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.references.ept.case import Case, Kind
from hvfuzz.references.ept.cases.boundary_cases import FETCH_OFFSETS, PARTS, boundary_cases, new_builder, pdptes_builder
from hvfuzz.references.ept.cases.case_builder import STUB_BITS, CaseBuilder
from hvfuzz.references.ept.memory_map import GUEST_TABLES, Part

_KINDS: Final = (Kind.LOAD, Kind.STORE, Kind.FETCH, Kind.UPDATE, Kind.PDPTES)
_OFFSETS: Final = (0, 8, 0x7F8, 0xFF8, 0xFF8, 0xFFC, 0xFF9, 0x123)
_BITS: Final = tuple(range(64))
_GUEST_BITS: Final = (0, 1, 2, 5, 6, 7, 63)
"""Defined bits of a guest entry: P, R/W, U/S, A, D, PS, XD."""
_FAULTS: Final = (0, 1, 1, 1, 2, 2, 3)
"""Number of faults in a case, each with the same probability."""


def mixed_cases(cases: int, seed: int) -> Iterator[Case]:
    """`cases` cases: boundary cases in random order, each followed by a random case; then random cases only."""
    rng = Random(seed)
    boundary = list(boundary_cases())
    rng.shuffle(boundary)
    mixed = chain.from_iterable((case, random_case(rng)) for case in boundary)
    for number, case in enumerate(chain(mixed, (random_case(rng) for _ in count()))):
        if number == cases:
            return
        yield case


def random_case(rng: Random) -> Case:
    """A random case."""
    kind = rng.choices(_KINDS, (6, 6, 6, 4, 1))[0]
    leaf = rng.choice((1, 1, 2, 3))
    builder = pdptes_builder(leaf) if kind is Kind.PDPTES else new_builder(kind, rng.random() < 0.5)
    builder.accessed_dirty(rng.random() < 0.5)
    if kind is not Kind.PDPTES:
        builder.high = rng.random() < 0.3
        builder.offset = rng.choice(FETCH_OFFSETS if kind is Kind.FETCH else _OFFSETS)
        for part in PARTS:
            if rng.random() < 0.2:
                builder.move(part, rng.getrandbits(1))
        builder.map_ept(Part.DATA, leaf)
        builder.map_guest(rng.choice((1, 1, 2, 3)))
        if rng.random() < 0.15:
            builder.map_ept(rng.choice(GUEST_TABLES), rng.choice((2, 3)))
        _draw_registers(builder, rng)
        _draw_guest_flags(builder, rng)
    _draw_ept_flags(builder, rng)
    for _ in range(rng.choice(_FAULTS)):
        rng.choices((_ept_fault, _guest_fault, _register_fault), (12, 7, 1))[0](builder, rng)
    return builder.finish("random")


def _draw_registers(builder: CaseBuilder, rng: Random) -> None:
    """Vary control bits; most values permit the access."""
    if rng.random() < 0.25:
        builder.cr0 ^= paging.CR0_WP
    if rng.random() < 0.25:
        builder.cr4 |= rng.choice((paging.CR4_SMEP, paging.CR4_SMAP, paging.CR4_PGE, paging.CR4_SMEP | paging.CR4_SMAP))
    if rng.random() < 0.25:
        builder.rflags |= paging.RFLAGS_AC
    if rng.random() < 0.1:
        builder.cr0 |= paging.CR0_AM
    if rng.random() < 0.1:
        builder.efer &= ~paging.EFER_NXE


def _draw_guest_flags(builder: CaseBuilder, rng: Random) -> None:
    """Vary guest accessed and dirty flags, and the rights of the leaf."""
    entries = builder.guest_path()
    if rng.random() < 0.5:
        for hpa in entries:
            if rng.random() < 0.3:
                builder.flip(hpa, paging.A)
    leaf = entries[-1]
    for bit, chance in ((paging.D, 0.5), (paging.RW, 0.2), (paging.US, 0.15), (paging.NX, 0.15), (paging.G, 0.2)):
        if rng.random() < chance:
            builder.flip(leaf, bit)


def _draw_ept_flags(builder: CaseBuilder, rng: Random) -> None:
    """Vary EPT accessed and dirty flags, and the rights of guest tables."""
    for part in PARTS:
        for hpa in builder.ept_path(part):
            if rng.random() < 0.2:
                builder[hpa] |= rng.choice((ept.ACCESSED, ept.DIRTY, ept.ACCESSED | ept.DIRTY))
        if part in GUEST_TABLES and rng.random() < 0.15:
            leaf = builder.ept_path(part)[-1]
            builder[leaf] = builder[leaf] & ~ept.RIGHTS | rng.choice((1, 3, 5))


def _ept_fault(builder: CaseBuilder, rng: Random) -> None:
    """Change an EPT entry."""
    parts = (*PARTS, Part.CODE)
    part = rng.choices(parts, (12, 3, 3, 3, 3, 1))[0]
    path = builder.ept_path(part)
    hpa = rng.choice(path)
    what = rng.randrange(6)
    if what < 2:
        builder[hpa] = builder[hpa] & ~ept.RIGHTS | rng.getrandbits(3)
    elif what == 2 and hpa == path[-1]:
        builder[hpa] = builder[hpa] & ~ept.MEMORY_TYPE | rng.getrandbits(3) << ept.MEMORY_TYPE_SHIFT
    elif what == 3 and rng.random() < 0.3:
        builder[hpa] &= ~ept.RIGHTS
    else:
        _flip_random_bit(builder, rng, hpa, _BITS)


def _guest_fault(builder: CaseBuilder, rng: Random) -> None:
    """Change a guest entry."""
    hpa = rng.choice(builder.guest_path())
    _flip_random_bit(builder, rng, hpa, _GUEST_BITS if rng.random() < 0.5 else _BITS)


def _flip_random_bit(builder: CaseBuilder, rng: Random, hpa: int, bits: tuple[int, ...]) -> None:
    """Flip one of `bits` in an entry, if `CaseBuilder.may_flip` permits it."""
    bit = rng.choice(bits)
    while not builder.may_flip(hpa, bit):
        bit = rng.choice(bits)
    builder.flip(hpa, 1 << bit)


def _register_fault(builder: CaseBuilder, rng: Random) -> None:
    """Flip a bit of the EPTP, CR3 or the linear address."""
    bit = rng.choice([bit for bit in range(64) if bit not in STUB_BITS])
    what = rng.randrange(3)
    if what == 0:
        builder.eptp ^= 1 << bit
    elif what == 1 and builder.kind is not Kind.PDPTES and bit < 40 and builder.has_small_tables():
        builder.cr3 ^= 1 << bit
    elif builder.kind is not Kind.PDPTES and bit >= 47:
        builder.gva = (builder.finish("").gva ^ 1 << bit) & U64
