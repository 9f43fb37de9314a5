"""The paging structures as they were last read: every reachable table, its present entries, and who maps each frame.

Words and frames are the keys of flat maps, so that a table of any level is found from the address of a written word.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from hvfuzz.hypervisor.memory.table_tree import FOREIGN
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE
from hvfuzz.machine.physical_memory import ZERO_PAGE
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    DMA_LEVELS,
    DMA_RIGHTS,
    EPT_LEVELS,
    EPT_RIGHTS,
    LARGE_LEVEL,
    Leaf,
    Table,
    is_link,
)
from hvfuzz.oracles.shadow.rewindable import ShadowMap

PART: Final = 256
ZERO_PART: Final = bytes(PART)
_PART_WORDS: Final = Struct(f"<{PART // 8}Q")


class TableIndex:
    """All tables of one machine that a processor or the IOMMU can walk to, by `roots`."""

    __slots__ = (
        "_words",
        "entries",
        "large",
        "leaves",
        "populations",
        "roots",
        "scene",
        "table_counts",
        "tables",
    )

    def __init__(self, scene: Scene) -> None:
        self.scene: Final = scene
        self._words: Final = scene.words
        self.entries: Final[ShadowMap[int, int]] = ShadowMap()
        """Index of a word of memory -> the present entry there, leaf or table."""
        self.tables: Final[ShadowMap[int, Table]] = ShadowMap()
        """Hfn -> the table in it."""
        self.populations: Final[ShadowMap[int, int]] = ShadowMap()
        """Hfn of a table -> number of its present entries; absent for 0."""
        self.leaves: Final[ShadowMap[int, tuple[int, ...]]] = ShadowMap()
        """Hfn -> words of the 4 KiB leaves that name it."""
        self.large: Final[ShadowMap[int, tuple[int, ...]]] = ShadowMap()
        """Hfn >> 9 -> words of the larger leaves that name those 512 frames."""
        self.table_counts: Final[list[int]] = []
        """Domain -> number of its reachable tables, without roots."""
        self.roots: Final[dict[int, int]] = {}
        """Space -> hfn of its root table."""

    def leaf(self, word: int) -> Leaf | None:
        """The leaf at a word, None if there is none."""
        entry = self.entries.get(word)
        table = self.tables.get(word >> 9)
        if entry is None or table is None:
            return None
        space, level, first = table
        if is_link(entry, level):
            return None
        page = first + ((word & WORDS_PER_PAGE - 1) << 9 * (level - 1))
        rights = entry & (DMA_RIGHTS if space & DMA else EPT_RIGHTS)
        return Leaf(word, space, level, page, (entry & ADDRESS) >> PAGE_SHIFT, rights, entry & FOREIGN != 0)

    def find(self, space: int, page: int) -> Leaf | None:
        """The leaf that maps `page` in `space`, None if it is not mapped."""
        hfn = self.roots[space]
        table = self.tables.get(hfn)
        while table is not None:
            word = (hfn << 9) + (page >> 9 * (table.level - 1) & WORDS_PER_PAGE - 1)
            entry = self.entries.get(word)
            if entry is None:
                return None
            if not is_link(entry, table.level):
                return self.leaf(word)
            hfn = (entry & ADDRESS) >> PAGE_SHIFT
            below = self.tables.get(hfn)
            if below is None or below.space != space or below.level != table.level - 1:
                return None
            table = below
        return None

    def present_entries(self, hfn: int, space: int) -> list[tuple[int, int]]:
        """(word, entry) of the present entries in memory of the table in frame `hfn`."""
        page = self.scene.machine.memory.read(hfn << PAGE_SHIFT, PAGE_SIZE)
        if page == ZERO_PAGE:
            return []
        rights = DMA_RIGHTS if space & DMA else EPT_RIGHTS
        first = hfn << 9
        return [
            (word, entry)
            for start in range(0, PAGE_SIZE, PART)
            # Most tables are nearly empty.
            if page[start : start + PART] != ZERO_PART
            for word, entry in enumerate(_PART_WORDS.unpack_from(page, start), first + (start >> 3))
            if entry & rights
        ]

    def _read_tree(self, hfn: int, table: Table, reserved: dict[int, int]) -> None:
        """Enter the table in frame `hfn`, and all tables below it, into the base state.

        Frames in `reserved` are tables of another kind, and never entered. Memory is told to report the words that
        are written in each table.
        """
        memory = self.scene.machine.memory
        if hfn >= memory.frames or hfn in self.tables or hfn in reserved:
            return
        space, level, page = table
        self.tables[hfn] = table
        memory.watched[hfn] = 1
        if page or level != (DMA_LEVELS if space & DMA else EPT_LEVELS):
            self.table_counts[space & ~DMA] += 1
        words = self.present_entries(hfn, space)
        if not words:
            return
        self.populations[hfn] = len(words)
        self.entries.update(words)
        leaves, large = self.leaves, self.large
        if level == 1:
            for word, entry in words:
                frame = (entry & ADDRESS) >> PAGE_SHIFT
                leaves[frame] = (*leaves[frame], word) if frame in leaves else (word,)
            return
        for word, entry in words:
            frame = (entry & ADDRESS) >> PAGE_SHIFT
            if is_link(entry, level):
                first = page + (word - (hfn << 9) << 9 * (level - 1))
                self._read_tree(frame, Table(space, level - 1, first), reserved)
            else:
                for block in range(frame >> 9, (frame >> 9) + (1 << 9 * (level - LARGE_LEVEL))):
                    large[block] = (*large.get(block, ()), word)
