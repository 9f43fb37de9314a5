"""Checks on the caller's own pages: whether they may be changed or released, and how many table pages that takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hvfuzz.abi.limits import MAX_GFN
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import Refused
from hvfuzz.hypervisor.memory.frames import MAPS_SHIFT, OWNER_MASK
from hvfuzz.hypervisor.memory.table_tree import BLOCK_LEVEL, BLOCK_PAGES, RIGHTS, leaf_frame

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.interfaces import Frames

ABSENT = Refused(Status.NOT_PRESENT, "gfn not present")
NOT_THE_OWNER = Refused(Status.NOT_OWNER, "another domain's frame")
IN_USE = Refused(Status.BUSY, "frame granted, pinned or mapped by a device")
POOL_TOO_SMALL = Refused(Status.NO_POOL, "too few table pages in the pool")
BAD_RANGE = Refused(Status.INVALID, "range of gfns")


def range_ok(first: int, count: int, limit: int) -> bool:
    """Whether `count` is in 1 .. `limit`, and that many pages from `first` on are guest physical addresses."""
    return 0 < count <= limit and first + count <= MAX_GFN


def page_refusal(hv: Frames, caller: Domain, gfn: int, entry: int, level: int) -> Refused | None:
    """Why the leaf `entry` of `level`, found for `gfn`, is not a page that the caller owns; None if it is."""
    if not entry & RIGHTS:
        return ABSENT
    # Without this check, a domain could give itself write access to a page granted to it read-only.
    if hv.frames.owner(leaf_frame(entry, level, gfn)) != caller.id:
        return NOT_THE_OWNER
    return None


def release_refusal(hv: Frames, caller: Domain, gfn: int, entry: int, level: int) -> Refused | None:
    """Why the caller cannot release the frame of the leaf `entry` of `level`, found for `gfn`; None if it can."""
    if not entry & RIGHTS:
        return ABSENT
    word = hv.frames.word(leaf_frame(entry, level, gfn))
    # Without this check, a domain could free a frame that another domain has granted to it.
    if word & OWNER_MASK != caller.id:
        return NOT_THE_OWNER
    # Without this check, grant mappings or devices could access the frame after it is freed and reallocated.
    return IN_USE if is_in_use(word) else None


def is_in_use(word: int) -> bool:
    """Whether an owned frame with this frame word has references other than its single stage-2 leaf.

    A second mapping is one for DMA: stage 2 never maps an owned frame twice, and foreign mappings hold pins.
    """
    return word >> MAPS_SHIFT != 1


def superpages_cut(caller: Domain, gfns: Iterable[int]) -> int:
    """Number of large leaves to split, one table page each, if `gfns` are changed one by one."""
    stage2 = caller.stage2
    cut: dict[int, bool] = {}
    for gfn in gfns:
        block = gfn & -BLOCK_PAGES
        if block not in cut:
            entry, level, _ = stage2.lookup(gfn)
            cut[block] = level == BLOCK_LEVEL and entry & RIGHTS != 0
    return sum(cut.values())
