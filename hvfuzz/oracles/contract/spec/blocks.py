"""Blocks of cells: the 512 cells of an aligned 2 MiB of a domain's stage 2, or of host memory, in one shared dict.

Equal arguments return the same dict as long as it is cached, so two sides that agree compare by identity. The dicts are
immutable by convention. Keys are cached, too: hashing 512 tuples costs less than making them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Final, TypeAlias

from hvfuzz.machine.addresses import LARGE_FRAMES
from hvfuzz.oracles.contract.spec.cells import Frame, Page

Block: TypeAlias = Mapping[tuple[Any, ...], Any]
"""512 existing cells."""
REMEMBERED: Final = 64
_page = partial(tuple.__new__, Page)  # Half the time of the constructor, 512 times.


@lru_cache(maxsize=REMEMBERED)
def page_keys(domain: int, first: int) -> tuple[tuple[str, int, int], ...]:
    """The keys of the page cells of 512 guest frames from `first` on."""
    return tuple([("page", domain, gfn) for gfn in range(first, first + LARGE_FRAMES)])


@lru_cache(maxsize=REMEMBERED)
def frame_keys(first: int) -> tuple[tuple[str, int], ...]:
    """The keys of the frame cells of 512 host frames from `first` on."""
    return tuple([("frame", hfn) for hfn in range(first, first + LARGE_FRAMES)])


@lru_cache(maxsize=REMEMBERED)
def numbered(table: str, domain: int, size: int) -> tuple[tuple[str, int, int], ...]:
    """The keys of the first `size` entries of a domain's table of grants, handles or ports."""
    return tuple([(table, domain, number) for number in range(size)])


@lru_cache(maxsize=REMEMBERED)
def page_block(domain: int, first: int, frame: int, rights: int, foreign: bool) -> Block:
    """The page cells of a large leaf of a domain's stage 2: guest frame `first`, host frame `frame`."""
    pages = map(_page, zip(range(frame, frame + LARGE_FRAMES), repeat(rights), repeat(foreign)))
    return dict(zip(page_keys(domain, first), pages, strict=True))


@lru_cache(maxsize=REMEMBERED)
def frame_block(first: int, use: Frame) -> Block:
    """The cells of 512 host frames from `first` on that all have the same use."""
    return dict.fromkeys(frame_keys(first), use)
