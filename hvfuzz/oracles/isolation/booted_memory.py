"""What the memory of a domain holds after boot (`abi/boot.py`): its page tables and its canary, and zeroes elsewhere.

Helper of the oracle `secrets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from hvfuzz.abi.boot import (
    DIRECT_MAP,
    DIRECT_MAP_SIZE,
    DIRECT_MAP_SMALL,
    MMIO_BASE,
    PD_KERNEL_GFN,
    PD_MMIO_GFN,
    PT_KERNEL_GFN,
    PT_USER_GFN,
    TABLE_CHAINS,
    USER_BASE,
    USER_GFN,
    USER_PAGES,
    table_index,
)
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_pool import POISON
from hvfuzz.machine.addresses import PAGE_SHIFT, WORDS_PER_PAGE
from hvfuzz.oracles.isolation.canary_search import CANARY_BITS

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

TABLE: Final = 1 | 1 << 1 | 1 << 5
"""Present, writable, accessed (SDM Vol. 3A, table 4-19)."""
PAGE: Final = TABLE | 1 << 6
"""And dirty."""
USER: Final = 1 << 2
LARGE: Final = 1 << 7
LARGE_SHIFT: Final = 21
POOL: Final = FrameState.POOL << 8
MARKED: Final = (0x2F, 0x30, 0x3F)
"""Pages whose last word is the canary of the domain, as is that of its last page of RAM."""


def guest_words() -> dict[int, dict[int, int]]:
    """Gfn -> index -> word: the page tables of a guest."""
    words: dict[int, dict[int, int]] = {}

    def put(gfn: int, index: int, word: int) -> None:
        words.setdefault(gfn, {})[index] = word

    for gva, chain in TABLE_CHAINS:
        for level, (table, below) in zip((4, 3, 2), pairwise(chain), strict=False):
            put(table, table_index(gva, level), below << PAGE_SHIFT | TABLE | (USER if gva == USER_BASE else 0))
    for page in range(DIRECT_MAP_SMALL >> PAGE_SHIFT):
        put(PT_KERNEL_GFN, page, page << PAGE_SHIFT | PAGE)
    for block in range(DIRECT_MAP_SMALL >> LARGE_SHIFT, DIRECT_MAP_SIZE >> LARGE_SHIFT):
        put(PD_KERNEL_GFN, block, block << LARGE_SHIFT | PAGE | LARGE)
    window = MMIO_BASE >> LARGE_SHIFT << LARGE_SHIFT
    put(PD_MMIO_GFN, table_index(DIRECT_MAP + MMIO_BASE, 2), window | PAGE | LARGE)
    for page in range(USER_PAGES):
        put(PT_USER_GFN, table_index(USER_BASE, 1) + page, USER_GFN + page << PAGE_SHIFT | PAGE | USER)
    return words


def faults(scene: Scene, shadow: PageTableShadow) -> Iterator[tuple[str, str]]:
    """Yield (rule, message) for each page that holds something else, and for each canary that is not one."""
    tables = guest_words()
    known: dict[int, str] = {}
    for hfn, word in enumerate(scene.owner_and_state):
        page = scene.words[hfn << 9 : hfn + 1 << 9]
        if word & 0xFF00 == POOL and page.tolist() != [POISON] * WORDS_PER_PAGE:
            yield "residue", f"the unused table page in frame {hfn:#x} holds something else than its mark"
    for domain, config in enumerate(scene.world.domains):
        canary: int = shadow.domains[domain].canary
        if canary & CANARY_BITS != CANARY_BITS or canary in known:
            yield "canary", f"the canary of dom{domain} is {canary:#x}, {known.get(canary, 'which is no secret')}"
        known[canary] = f"which is that of dom{domain}"
        for gfn in range(config.ram_pages):
            leaf = shadow.find(domain, gfn)
            if leaf is None or not 0 <= leaf.frame < scene.machine.memory.frames:
                continue  # The specification tells that it is missing.
            frame = leaf.frame + (gfn & leaf.frames - 1)
            found = scene.words[frame << 9 : frame + 1 << 9]
            wanted = [0] * WORDS_PER_PAGE
            for index, word in tables.get(gfn, {}).items():
                wanted[index] = word
            if gfn in (*MARKED, config.ram_pages - 1):
                wanted[-1] = canary
            if found.tolist() != wanted:
                at = next(at for at in range(WORDS_PER_PAGE) if found[at] != wanted[at])
                place = f"word {at} of page {gfn:#x} of dom{domain}"
                yield "residue", f"{place} is {found[at]:#x}, expected {wanted[at]:#x}"
