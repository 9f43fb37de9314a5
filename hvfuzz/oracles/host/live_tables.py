"""The paging structures as they are after each single write of the host, not only at the end of a call.

The shadow compares at the end of a call, and a state that lasts for one write is lost on it. `LiveTables` starts as a
copy of the shadow and takes over one word at a time. For each it tells what the change does to whole pages: a written
link changes the translation of every page below it. It makes no judgement. Used in audited runs only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_SHIFT, WORDS_PER_PAGE
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    DMA_RIGHTS,
    EPT_RIGHTS,
    LARGE_LEVEL,
    Leaf,
    Table,
    is_link,
    name_of,
)

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

Translations = dict[int, tuple[int, int]]
"""Page -> (frame, rights)."""


class EntryChange(NamedTuple):
    """A written entry of a table, and what it changes."""

    word: int
    table: Table
    page: int
    """The first page that the entry covers."""
    old: int
    """The entry before, 0 if it was absent."""
    new: int
    before: Translations
    """The pages that the old entry mapped, directly or by the tables below it."""
    after: Translations
    unlinked: list[tuple[int, Table]]
    """(hfn, table) of each table that the old entry led to."""
    linked: list[tuple[int, Table]]

    @property
    def where(self) -> str:
        """The place of the entry in words, for messages."""
        return f"{name_of(self.table.space)}, page {self.page:#x}"


class LiveTables:
    """All tables that a processor or the IOMMU can walk to at this moment."""

    __slots__ = ("_frames", "_shadow", "_words", "entries", "large", "leaves", "tables")

    def __init__(self, shadow: PageTableShadow) -> None:
        self._shadow: Final = shadow
        self._words: Final = shadow.scene.words
        self._frames: Final = shadow.scene.machine.memory.frames
        self.tables: dict[int, Table] = {}
        """Hfn -> the table in it."""
        self.entries: dict[int, int] = {}
        """Word -> the present entry there."""
        self.leaves: dict[int, tuple[int, ...]] = {}
        """Hfn -> words of the 4 KiB leaves that name it."""
        self.large: dict[int, tuple[int, ...]] = {}
        """Hfn >> 9 -> words of the larger leaves that name those frames."""

    def start(self) -> None:
        """Copy the shadow. Nothing must have been written since its last update."""
        shadow = self._shadow
        self.tables = dict(shadow.tables)
        self.entries = dict(shadow.entries)
        self.leaves = dict(shadow.leaves)
        self.large = dict(shadow.large)

    def reset(self) -> None:
        """Forget the copy."""
        self.tables, self.entries, self.leaves, self.large = {}, {}, {}, {}

    def naming(self, hfn: int) -> tuple[int, ...]:
        """Words of the leaves, of any size, that name the frame."""
        return self.leaves.get(hfn, ()) + self.large.get(hfn >> 9, ())

    def leaf(self, word: int) -> Leaf | None:
        """The leaf at a word, None if there is none."""
        entry = self.entries.get(word)
        table = self.tables.get(word >> 9)
        if entry is None or table is None or is_link(entry, table.level):
            return None
        page = table.page + ((word & WORDS_PER_PAGE - 1) << 9 * (table.level - 1))
        rights = entry & _rights_of(table.space)
        return Leaf(word, table.space, table.level, page, (entry & ADDRESS) >> PAGE_SHIFT, rights, False)

    def take_over(self, word: int) -> EntryChange | None:
        """Compare one word of a table with memory; None if the entry is the same, or absent as before."""
        table = self.tables[word >> 9]
        new: int = self._words[word]
        if not new & _rights_of(table.space):
            new = 0
        old = self.entries.get(word, 0)
        if new == old:
            return None
        page = table.page + ((word & WORDS_PER_PAGE - 1) << 9 * (table.level - 1))
        unlinked: list[tuple[int, Table]] = []
        linked: list[tuple[int, Table]] = []
        before = self._drop(word, table, page, old, unlinked) if old else {}
        after = self._add(word, table, page, new, linked) if new else {}
        return EntryChange(word, table, page, old, new, before, after, unlinked, linked)

    def _drop(self, word: int, table: Table, page: int, entry: int, unlinked: list[tuple[int, Table]]) -> Translations:
        """Drop an entry and all below it; returns what they mapped."""
        del self.entries[word]
        frame = (entry & ADDRESS) >> PAGE_SHIFT
        if not is_link(entry, table.level):
            _forget(self.leaves if table.level == 1 else self.large, _keys(frame, table.level), word)
            return _pages(table, page, entry)
        below = Table(table.space, table.level - 1, page)
        if self.tables.get(frame) != below:
            return {}  # It was misplaced, and never followed.
        del self.tables[frame]
        unlinked.append((frame, below))
        mapped: Translations = {}
        first = frame << 9
        for at in range(first, first + WORDS_PER_PAGE):
            lower = self.entries.get(at)
            if lower is not None:
                mapped |= self._drop(at, below, page + (at - first << 9 * (below.level - 1)), lower, unlinked)
        return _narrowed(mapped, entry, table.space)

    def _add(self, word: int, table: Table, page: int, entry: int, linked: list[tuple[int, Table]]) -> Translations:
        """Add an entry and all below it; returns what they map."""
        self.entries[word] = entry
        frame = (entry & ADDRESS) >> PAGE_SHIFT
        if not is_link(entry, table.level):
            index = self.leaves if table.level == 1 else self.large
            for key in _keys(frame, table.level):
                index[key] = (*index.get(key, ()), word)
            return _pages(table, page, entry)
        if frame >= self._frames or frame in self.tables or frame in self._shadow.iommu_frames:
            return {}  # No tree: what is wrong with it is told by the entry itself.
        below = Table(table.space, table.level - 1, page)
        self.tables[frame] = below
        linked.append((frame, below))
        mapped: Translations = {}
        first = frame << 9
        for at, lower in self._shadow.present_entries(frame, table.space):
            mapped |= self._add(at, below, page + (at - first << 9 * (below.level - 1)), lower, linked)
        return _narrowed(mapped, entry, table.space)


def _rights_of(space: int) -> int:
    """The bits of an entry that hold its rights; it is absent if all are clear."""
    return DMA_RIGHTS if space & DMA else EPT_RIGHTS


def _pages(table: Table, page: int, entry: int) -> Translations:
    """The pages that a leaf maps."""
    frame, rights = (entry & ADDRESS) >> PAGE_SHIFT, entry & _rights_of(table.space)
    if table.level == 1:
        return {page: (frame, rights)}
    return {page + at: (frame + at, rights) for at in range(1 << 9 * (table.level - 1))}


def _narrowed(mapped: Translations, link: int, space: int) -> Translations:
    """What remains of the rights below a link: hardware takes the rights of all levels together."""
    rights = link & _rights_of(space)
    if rights == _rights_of(space):
        return mapped
    return {page: (frame, own & rights) for page, (frame, own) in mapped.items() if own & rights}


def _keys(frame: int, level: int) -> range:
    """The keys under which a leaf is found by what it maps: see `LiveTables.leaves` and `LiveTables.large`."""
    if level == 1:
        return range(frame, frame + 1)
    return range(frame >> 9, (frame >> 9) + (1 << 9 * (level - LARGE_LEVEL)))


def _forget(index: dict[int, tuple[int, ...]], keys: range, word: int) -> None:
    """Remove one word from a reverse index."""
    for key in keys:
        left = tuple([other for other in index.get(key, ()) if other != word])
        if left:
            index[key] = left
        else:
            index.pop(key, None)
