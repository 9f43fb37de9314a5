"""Random cases: tables and accesses, most of which a single bit decides. The same seed gives the same cases.

A case starts with entries that allow everything, and an access that succeeds. One theme then disturbs it: a flipped
bit (each bit of each level once, in random order, before any is repeated), rights removed at some levels, or an
address at or beyond the border of canonical addresses. Independently, tables may be shared between levels, operands may
cross a page, and further accesses may follow the first, which then hit the TLB.
"""

from collections.abc import Iterator
from random import Random
from typing import Final

from hvfuzz.machine.addresses import EXEC, MAXPHYADDR, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, U64, WORD, WRITE
from hvfuzz.machine.mmu import paging
from hvfuzz.references.stage1.case import FRAMES, STUB_ENTRY, STUB_SLOT, Access, Case

_LEAF_LEVELS: Final = (1, 1, 2, 3)
_SHIFTS: Final = {1: 12, 2: 21, 3: 30, 4: 39}
_ALLOW: Final = paging.P | paging.RW | paging.US
_ORDINARY_BITS: Final = paging.PWT | paging.PCD | paging.A | paging.D | paging.G | 7 << 9 | 0x7FF << 52
"""Bits that are arbitrary in a well-formed entry of any level: flags, and bits that the processor ignores."""
_PAT: Final = {1: 1 << 7, 2: 1 << 12, 3: 1 << 12}
_INDICES: Final = (0, 1, 255, 256, 510, 511, 2, 4, 8, 16, 32, 64, 128)
_BORDERS: Final = (0, 0x7FFF_FFFF_F000, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_F000)
"""The first and last page of both halves of the canonical address space."""
_CR0: Final = paging.CR0_PE | paging.CR0_MP | paging.CR0_ET | paging.CR0_NE | paging.CR0_PG
_EFER: Final = paging.EFER_SCE | paging.EFER_LME | paging.EFER_LMA
_RFLAGS: Final = 2
_FAR: Final = 1 << 20
"""A physical address far beyond RAM."""
_FIRST_BIT_NOT_CANONICAL: Final = 47


def cases(seed: int) -> Iterator[Case]:
    """An endless sequence of cases, which depends on `seed` only."""
    random = Random(seed)
    flips: list[tuple[int, int, int]] = []
    while True:
        if not flips:
            flips = [(leaf, level, bit) for leaf in (1, 2, 3) for level in range(leaf, 5) for bit in range(64)]
            random.shuffle(flips)
        theme = random.random()
        if theme < 0.45:
            leaf, level, bit = flips.pop()
            yield _CaseBuilder(random, leaf).case(flip=(level, bit))
        elif theme < 0.8:
            yield _CaseBuilder(random, random.choice(_LEAF_LEVELS)).case(restrict=True)
        elif theme < 0.87:
            yield _CaseBuilder(random, random.choice(_LEAF_LEVELS)).case(not_canonical=True)
        else:
            yield _CaseBuilder(random, random.choice(_LEAF_LEVELS), border=theme < 0.95).case()


class _CaseBuilder:
    """A case under construction: its tables, and the page that they map."""

    def __init__(self, random: Random, leaf: int, border: bool = False) -> None:
        """`border`: take the first or last page of a half of the canonical address space."""
        self._random = random
        self._leaf = leaf
        """Level of the entry that maps the page: 1, 2 or 3."""
        tables = random.choices(random.sample(FRAMES, 2), k=4) if random.random() < 0.08 else random.sample(FRAMES, 4)
        self._tables = tables
        """Frames of the tables of levels 4 to 1."""
        self._border = border
        page_size = 1 << _SHIFTS[leaf]
        page, gva = self._place(page_size)
        while any(STUB_SLOT in (near >> shift & 511 for shift in _SHIFTS.values()) for near in (gva, gva + PAGE_SIZE)):
            page, gva = self._place(page_size)
        self._base = page & ~(page_size - 1)
        self._gva = gva
        """Linear address of the 4 KiB page that is accessed."""

    def case(self, flip: tuple[int, int] | None = None, restrict: bool = False, not_canonical: bool = False) -> Case:
        """The finished case; `flip` is (level, bit) of an entry bit to flip."""
        random = self._random
        restricted = random.sample((1, 2, 3, 4), random.choice((1, 1, 2, 4))) if restrict else ()
        entries = {self._tables[0] << PAGE_SHIFT | STUB_SLOT * WORD: STUB_ENTRY}
        slots = self._enter(entries, self._gva, restricted)
        if flip is not None:
            entries[slots[4 - flip[0]]] ^= 1 << flip[1]
        gva = self._gva
        if not_canonical:
            gva ^= 1 << random.randrange(_FIRST_BIT_NOT_CANONICAL, 64)
        first = self._access(gva, frozenset())
        accesses = [first]
        if (first.gva & PAGE_MASK) + first.size > PAGE_SIZE:
            self._enter(entries, self._gva + PAGE_SIZE & U64, restricted)
        elif random.random() < 0.3:
            # No store of these may hit an entry: the processor may or may not use the stale translation then.
            words = frozenset((hpa & PAGE_MASK) // WORD for hpa in entries)
            accesses = [self._access(gva, words) for _ in range(random.choice((2, 2, 3)))]
        bits = random.getrandbits(8)
        return Case(
            _CR0 | (paging.CR0_WP if bits & 1 else 0),
            self._tables[0] << PAGE_SHIFT | (paging.PWT if bits & 2 else 0) | (paging.PCD if bits & 4 else 0),
            paging.CR4_PAE
            | (paging.CR4_SMEP if bits & 8 else 0)
            | (paging.CR4_SMAP if bits & 16 else 0)
            | (paging.CR4_PGE if bits & 32 else 0),
            _EFER | (paging.EFER_NXE if bits & 64 or random.random() < 0.3 else 0),
            tuple(entries.items()),
            tuple(accesses),
        )

    def _target(self) -> int:
        """Physical address of a page: in RAM, a frame with one high address bit set, or anywhere beyond RAM."""
        random = self._random
        kind = random.random()
        if kind < 0.55:
            frame = random.choice(FRAMES)
            while frame in self._tables and random.random() < 0.8:
                frame = random.choice(FRAMES)
            return frame << PAGE_SHIFT
        if kind < 0.75:
            return 1 << random.randrange(_FAR.bit_length() - 1, MAXPHYADDR) | random.choice(FRAMES) << PAGE_SHIFT
        return random.randrange(_FAR, 1 << MAXPHYADDR) & ~PAGE_MASK

    def _place(self, page_size: int) -> tuple[int, int]:
        """(physical, linear) address of a 4 KiB page; both have the same offset in a page of `page_size` bytes."""
        random = self._random
        target = self._target()
        if self._border:
            gva = random.choice(_BORDERS)
            return target & ~(page_size - 1) | gva & page_size - 1, gva
        gva = 0
        for _ in _SHIFTS:
            gva = gva << 9 | (random.choice(_INDICES) if random.random() < 0.4 else random.randrange(512))
        gva = gva << PAGE_SHIFT & ~(page_size - 1) | target & page_size - 1
        return target, gva | 0xFFFF << 48 if gva >> _FIRST_BIT_NOT_CANONICAL else gva

    def _enter(self, entries: dict[int, int], gva: int, restricted: tuple[int, ...] | list[int]) -> list[int]:
        """Add the missing entries that map the page of `gva`; returns the addresses of all of them, level 4 first."""
        slots = []
        for level in range(4, self._leaf - 1, -1):
            slot = self._tables[4 - level] << PAGE_SHIFT | (gva >> _SHIFTS[level] & 511) * WORD
            slots.append(slot)
            if slot not in entries:
                entries[slot] = self._entry(level, level in restricted)
        return slots

    def _entry(self, level: int, restricted: bool) -> int:
        """A well-formed entry with all rights, unless `restricted`; bits without effect are random."""
        random = self._random
        entry = _ALLOW | random.getrandbits(64) & _ORDINARY_BITS
        if restricted:
            entry &= ~(random.getrandbits(2) << 1)
            entry |= paging.NX if random.random() < 0.3 else 0
        if level > self._leaf:
            return entry | self._tables[5 - level] << PAGE_SHIFT
        entry |= self._base | random.choice((0, _PAT[level]))
        return entry | paging.PS if level > 1 else entry

    def _access(self, gva: int, avoid: frozenset[int]) -> Access:
        """An access in the page of `gva`; `avoid` has the indexes of words in the page that it must not touch."""
        random = self._random
        kind = random.choice((READ, WRITE, EXEC))
        size = 1 if kind == EXEC else random.choice((1, 2, 4, 8))
        while True:
            offset = random.randrange(0, PAGE_SIZE, size)
            way = random.random()
            if way < 0.1:
                offset = random.randrange(PAGE_SIZE - size + 1)
            elif way < 0.25:
                offset = random.choice((0, PAGE_SIZE - size))
            elif way < (0.7 if self._border else 0.4) and not avoid:
                offset = PAGE_SIZE - random.randrange(1, size + 1)
            words = {offset // WORD, (offset + size - 1) // WORD}
            if STUB_SLOT not in words and not words & avoid:
                break
        return Access(
            kind,
            random.random() < 0.5,
            _RFLAGS | (paging.RFLAGS_AC if random.random() < 0.5 else 0),
            gva | offset,
            size,
            random.getrandbits(64),
        )
