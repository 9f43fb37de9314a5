"""Number of table pages a call needs, counted from the table bytes. Used to judge refusals with NO_POOL."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import SELF
from hvfuzz.hypervisor.ipc.grants import DEVICE, HOST
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    DMA_LEVELS,
    DMA_RIGHTS,
    EPT_LEVELS,
    EPT_RIGHTS,
    LARGE,
    LARGE_LEVEL,
)

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.running_call import Bytes
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

UNKNOWN: Final = 1 << 63
"""Result for calls that are not modelled here: any refusal may be correct."""


def tables_needed(shadow: PageTableShadow, caller: int, name: str, args: Any, reads: list[Bytes]) -> int:
    """Maximum number of table pages that the call takes from the pool of its `payer`.

    The shadow must show the state before the call changes anything; `reads` are its copies from guest memory.
    """
    match name:
        case "memory.populate":
            pages = range(args.first, args.first + (args.count << args.order), 1 << args.order)
            return _missing(shadow, caller, pages, LARGE_LEVEL if args.order else 1)
        case "memory.decrease" | "memory.protect":
            end = args.first + args.count
            cut = dict.fromkeys((args.first & -LARGE_FRAMES, end - 1 & -LARGE_FRAMES))
            # A large leaf that lies wholly in the range, or has the rights already, is not split.
            cut_blocks = [block for block in cut if block < args.first or end < block + LARGE_FRAMES]
            return sum(rights != getattr(args, "rights", 0) for rights in _large(shadow, caller, cut_blocks))
        case "memory.exchange":
            data = b"".join(piece for _, piece in reads)
            blocks = dict.fromkeys(gfn & -LARGE_FRAMES for (gfn,) in struct.iter_unpack("<Q", data))
            return len(_large(shadow, caller, blocks))
        case "grant.map":
            host = _missing(shadow, caller, (args.gfn,), 1) if args.flags & HOST else 0
            return host + (_missing(shadow, caller | DMA, (args.iova >> PAGE_SHIFT,), 1) if args.flags & DEVICE else 0)
        case "device.dma_map":
            first = args.iova >> PAGE_SHIFT
            return _missing(shadow, caller | DMA, range(first, first + args.count), 1)
        case "device.assign":
            regions = [
                range(base >> PAGE_SHIFT, (base >> PAGE_SHIFT) + pages)
                for device, base, pages in shadow.scene.world.reserved
                if device == args.device
            ]
            return _missing(shadow, payer(caller, name, args) | DMA, chain.from_iterable(regions), 1)
    return UNKNOWN


def payer(caller: int, name: str, args: Any) -> int:
    """The domain whose pool gives the table pages, if there is such a domain."""
    return int(args.to) if name == "device.assign" and args.to != SELF else caller


def frames_needed(name: str, args: Any) -> int:
    """Number of frames or blocks that the call needs before its table pages."""
    return args.count if name in ("memory.populate", "memory.exchange") else 0


def _missing(shadow: PageTableShadow, space: int, pages: Iterable[int], level: int) -> int:
    """Number of tables that are missing on the way to leaves of `level` for `pages`."""
    absent: set[tuple[int, int]] = set()
    for page in pages:
        stop, _ = _walk(shadow, space, page, level)
        absent.update((each, page >> 9 * each) for each in range(level, stop))
    return len(absent)


def _large(shadow: PageTableShadow, space: int, blocks: Iterable[int]) -> list[int]:
    """The rights of each large leaf among `blocks`, given by their first pages. Splitting one takes a table."""
    ends = [_walk(shadow, space, block, LARGE_LEVEL) for block in blocks]
    return [
        entry & EPT_RIGHTS for level, entry in ends if level == LARGE_LEVEL and entry & LARGE and entry & EPT_RIGHTS
    ]


def _walk(shadow: PageTableShadow, space: int, page: int, level: int) -> tuple[int, int]:
    """(level, entry) at which the walk for `page` ends: at `level`, or above it if no table follows."""
    rights, at = (DMA_RIGHTS, DMA_LEVELS) if space & DMA else (EPT_RIGHTS, EPT_LEVELS)
    table = shadow.roots[space] << PAGE_SHIFT
    while True:
        entry: int = shadow.scene.words[(table >> 3) + (page >> 9 * (at - 1) & LARGE_FRAMES - 1)]
        if at == level or not entry & rights or entry & LARGE:
            return at, entry
        table = entry & ADDRESS
        at -= 1
