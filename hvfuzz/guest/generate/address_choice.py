"""Chooses addresses and frame numbers: mostly a few that recur in a program, else edges and random numbers."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import (
    ARG_ARRAYS,
    ARG_NESTED,
    DEVICES,
    DIRECT_MAP,
    DIRECT_MAP_SIZE,
    HYPERVISOR_HOLE_START,
    MMIO_BASE,
    MMIO_SIZE,
    TABLE_CHAINS,
    TABLE_GFNS,
    USER_BASE,
    USER_PAGES,
    argument_page,
    table_index,
)
from hvfuzz.abi.kinds import GFN, GVA, IOVA, Kind
from hvfuzz.abi.limits import IOVA_LIMIT, MAX_GFN
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.program import Actor
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, U64

RAM_GFN: Final = 0x30
"""First frame of RAM that nothing uses at boot, in every domain."""
FREE_GFN: Final = 0x100
"""First frame beyond the RAM of every domain at boot."""
_NEAR: Final = 6
"""Frames to choose from, counted from those: few, so that ops use the same ones."""
_OFFSETS: Final = (0, 0, 0, 8, 0x10, 0x7F8, 0xFF8, 0xFFC, 0xFFF)
"""Offsets in a page; an access at one of the last crosses into the next page."""
_FIELDS: Final = (0, 2, 4, 8, 8, 12, 16, 16, 20, 24, 24, 32, 40, 48)
"""Offsets of the header and of fields in an argument struct."""
_ENTRY_FLAGS: Final = (0x3, 0x3, 0x7, 0x7, 0x1, 0x5, 0x63, 0x67, 0x83, 0xE7, 0x0, 0x3 | 1 << 63, 0x3 | 1 << 51)
"""Combinations of P, RW, US, A, D, PS, XD and a reserved bit (SDM Vol. 3A, tables 4-15 to 4-20)."""


def edge(context: Context, kind: Kind) -> int:
    """An edge of the kind, a number close to one, or a random number of the kind's width."""
    choice = context.rng.random()
    if choice < 0.75 and kind.edges:
        return context.pick(kind.edges)
    if choice < 0.85 and kind.edges:
        return (context.pick(kind.edges) + context.below(17) - 8) & kind.maximum
    return context.rng.getrandbits(context.pick((8, 16, 32, 64))) & kind.maximum


def frame(context: Context, actor: Actor) -> int:
    """A gfn: one that the program uses, one that is free or RAM at boot, the start of a 2 MiB page, or an edge."""
    fills = context.free_frames
    if context.frame_focus is not None and context.chance(0.75):
        return _within(context, context.frame_focus)
    if not fills and context.chance(0.3):
        filled = context.populated_frames(actor.domain)
        if filled:
            return _within(context, context.pick_recent(filled))
    choice = context.draw(0.93)
    if choice < (0.3 if fills else 0.55):
        pool = context.pool("gfn")
        if pool:
            gfn = context.pick(pool)
            if not context.chance(0.9):
                gfn += context.pick((1, -1, 2, LARGE_FRAMES, -LARGE_FRAMES))
            if not context.careful or _plausible(context, gfn):
                return gfn
    if choice < 0.89:
        if context.chance(0.88 if fills else 0.06):
            return FREE_GFN + context.below(3 * _NEAR)
        return RAM_GFN + context.below(_NEAR)
    if choice < 0.93:
        return LARGE_FRAMES * (1 + context.below(MAX_GFN // LARGE_FRAMES - 1))
    return edge(context, GFN)


def _within(context: Context, frames: tuple[int, int]) -> int:
    first, count = frames
    return first + context.below(count) if context.chance(0.3) else first


def _plausible(context: Context, gfn: int) -> bool:
    """Whether gfn is likely to have memory, or, with `free_frames`, likely to lack it; sometimes True regardless."""
    if FREE_GFN <= gfn < MAX_GFN:
        return context.free_frames or context.chance(0.2)
    return 0 <= gfn < FREE_GFN and (not context.free_frames or context.chance(0.2))


def gva(context: Context, actor: Actor) -> int:
    """A guest virtual address in a known frame, argument page, user page, page table, device page, or the hole."""
    choice = context.draw(0.76)
    if choice < 0.16:
        pool = context.pool("gva")
        if pool:
            return (context.pick(pool) + context.pick((0, 0, 0, 8, 4, -8, PAGE_SIZE))) & U64
    if choice < 0.5:
        page = DIRECT_MAP + (frame(context, actor) << PAGE_SHIFT) % DIRECT_MAP_SIZE
        return page + context.pick(_OFFSETS)
    if choice < 0.66:
        return argument_word(context, actor.vcpu if choice < 0.6 else context.below(2))
    if choice < 0.72:
        return USER_BASE + (context.below(USER_PAGES) << PAGE_SHIFT) + context.pick(_OFFSETS)
    if choice < 0.76:
        return _table_word(context)
    if choice < 0.8:
        return DIRECT_MAP + MMIO_BASE + context.below(DEVICES + 1) * MMIO_SIZE + 8 * context.below(8)
    if choice < 0.84:
        return HYPERVISOR_HOLE_START + (context.below(0x400) << PAGE_SHIFT) + context.pick(_OFFSETS)
    return edge(context, GVA)


def _table_word(context: Context) -> int:
    """The address of a word in a guest page table, mostly of an entry that walks use."""
    if context.chance(0.3):
        return DIRECT_MAP + (context.pick(TABLE_GFNS) << PAGE_SHIFT) + 8 * context.below(512)
    page, tables = context.pick(TABLE_CHAINS)
    depth = context.below(len(tables))
    # The argument pages and the pages that programs use are among the first 64 of the direct map.
    walked = page + (context.below(64) << PAGE_SHIFT)
    return DIRECT_MAP + (tables[depth] << PAGE_SHIFT) + 8 * table_index(walked, 4 - depth)


def argument_word(context: Context, vcpu: int) -> int:
    """The address of a word of the vCPU's argument page: in the struct, the arrays, or the struct of a batched call."""
    start = context.pick((0, 0, ARG_ARRAYS, ARG_ARRAYS, ARG_NESTED))
    return argument_page(vcpu) + start + context.pick(_FIELDS)


def iova(context: Context) -> int:
    """A device address: one that the program uses, a low page, a distant page, or an edge."""
    if context.iova_focus is not None and context.chance(0.75):
        return context.iova_focus
    choice = context.draw(0.88)
    if choice < 0.5:
        pool = context.pool("iova")
        if pool:
            known = context.pick(pool)
            if not context.chance(0.88):
                known += context.pick((PAGE_SIZE, -PAGE_SIZE, 8, 1, 0xFF8, 1 << 21))
            if not context.careful or (0 <= known < IOVA_LIMIT and not known & PAGE_MASK):
                return known
    if choice < 0.82:
        return context.below(_NEAR) << PAGE_SHIFT
    if choice < 0.88:
        # Distant pages: mapping each takes new table pages.
        return 1 + context.below(15) << context.pick((21, 30))
    return edge(context, IOVA)


def entry(context: Context, actor: Actor) -> int:
    """A stage-1 page-table entry for a guest page table or for a frame."""
    choice = context.rng.random()
    if choice < 0.15:
        pool = context.pool("entry")
        if pool:
            return context.pick(pool) ^ (1 << context.below(64))
    if choice < 0.9:
        gfn = context.pick(TABLE_GFNS) if choice < 0.3 else frame(context, actor)
        return (gfn << PAGE_SHIFT) % (1 << 52) | context.pick(_ENTRY_FLAGS)
    return context.rng.getrandbits(64)
