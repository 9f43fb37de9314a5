"""Cells by the block: what an aligned 2 MiB is to a domain's stage 2, or to the frames, is one dict of 512 cells.

The dicts are made once and shared: nobody may change one. Whoever describes the same block gets the same dict, so
that two sides which agree need not compare cell by cell. Keys of tables are made once, too: hashing 512 tuples costs
less than making them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import repeat
from typing import Any, Final, TypeAlias

from hvfuzz.machine.addresses import LARGE_FRAMES
from hvfuzz.oracles.contract.spec.cells import Frame, Page

Block: TypeAlias = Mapping[tuple[Any, ...], Any]
"""512 cells, all of which exist."""
REMEMBERED: Final = 64


@lru_cache(maxsize=REMEMBERED)
def page_keys(domain: int, first: int) -> tuple[tuple[str, int, int], ...]:
    """The keys of the pages of a block of guest frames."""
    return tuple([("page", domain, gfn) for gfn in range(first, first + LARGE_FRAMES)])


@lru_cache(maxsize=REMEMBERED)
def frame_keys(first: int) -> tuple[tuple[str, int], ...]:
    """The keys of a block of host frames."""
    return tuple([("frame", hfn) for hfn in range(first, first + LARGE_FRAMES)])


@lru_cache(maxsize=REMEMBERED)
def numbered(table: str, domain: int, size: int) -> tuple[tuple[str, int, int], ...]:
    """The keys of one of a domain's tables: grants, handles or ports."""
    return tuple([(table, domain, number) for number in range(size)])


@lru_cache(maxsize=REMEMBERED)
def page_block(domain: int, first: int, frame: int, rights: int, foreign: bool) -> Block:
    """A large leaf of a domain's stage 2."""
    pages = map(Page, range(frame, frame + LARGE_FRAMES), repeat(rights), repeat(foreign))
    return dict(zip(page_keys(domain, first), pages, strict=True))


@lru_cache(maxsize=REMEMBERED)
def frame_block(first: int, use: Frame) -> Block:
    """A block of host frames that are all in the same use."""
    return dict.fromkeys(frame_keys(first), use)
