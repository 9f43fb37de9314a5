"""What the calls ask of the caller's own pages: may they be changed, given up, are there tables for it."""

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
    """Whether `count` (1 .. `limit`) pages from `first` on lie in the guest's physical space."""
    return 0 < count <= limit and first + count <= MAX_GFN


def page_refusal(hv: Frames, caller: Domain, gfn: int, entry: int, level: int) -> Refused | None:
    """Why the leaf `entry` of `level`, found for `gfn`, is not a page of the caller's own."""
    if not entry & RIGHTS:
        return ABSENT
    if hv.frames.owner(leaf_frame(entry, level, gfn)) != caller.id:
        return NOT_THE_OWNER
    return None


def release_refusal(hv: Frames, caller: Domain, gfn: int, entry: int, level: int) -> Refused | None:
    """Why the caller cannot give up the frame of the leaf `entry` of `level`, found for `gfn`."""
    if not entry & RIGHTS:
        return ABSENT
    word = hv.frames.word(leaf_frame(entry, level, gfn))
    if word & OWNER_MASK != caller.id:
        return NOT_THE_OWNER
    return IN_USE if is_in_use(word) else None


def is_in_use(word: int) -> bool:
    """Whether the owned frame with this frame word is named by more than its one stage-2 leaf.

    A second mapping is a device's: stage 2 never maps an owned frame twice, and foreign mappings hold pins.
    """
    return word >> MAPS_SHIFT != 1


def superpages_cut(caller: Domain, gfns: Iterable[int]) -> int:
    """The number of large leaves that `gfns`, each changed on its own, lie in: a split of each takes a table page."""
    stage2 = caller.stage2
    cut: dict[int, bool] = {}
    for gfn in gfns:
        block = gfn & -BLOCK_PAGES
        if block not in cut:
            entry, level, _ = stage2.lookup(gfn)
            cut[block] = level == BLOCK_LEVEL and entry & RIGHTS != 0
    return sum(cut.values())
