"""Follows the paging structures: compares the words that were written with the index, and notes what changed.

Memory reports the words written in watched frames, and every table is watched from the moment it becomes reachable.
So the cost of following depends on what was written, and not on the size of the tables.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from hvfuzz.hypervisor.memory.table_tree import FOREIGN
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE
from hvfuzz.machine.physical_memory import ZERO_PAGE
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    DMA_RIGHTS,
    EPT_RIGHTS,
    LARGE,
    LARGE_LEVEL,
    LEAF_BITS,
    Change,
    Leaf,
    Removed,
    Table,
    is_link,
    malformation,
)
from hvfuzz.oracles.shadow.rewindable import ShadowMap
from hvfuzz.oracles.shadow.table_index import TableIndex

# Twice as fast as the constructor `Leaf`, which costs 0.5 % more instructions in a whole run (cachegrind). It counts
# most when a large leaf is split into 512.
_leaf = partial(tuple.__new__, Leaf)


class TableFollower:
    """Keeps `index` in step with memory. What changes is noted in `change`."""

    __slots__ = (
        "_entries",
        "_index",
        "_large",
        "_leaves",
        "_memory",
        "_populations",
        "_reserved",
        "_table_counts",
        "_tables",
        "_words",
        "_written",
        "change",
        "refilled",
    )

    def __init__(self, index: TableIndex, reserved: dict[int, int]) -> None:
        self._memory: Final = index.scene.machine.memory
        self._words: Final = index.scene.words
        self._index: Final = index
        self._entries: Final = index.entries
        self._tables: Final = index.tables
        self._populations: Final = index.populations
        self._leaves: Final = index.leaves
        self._large: Final = index.large
        self._table_counts: Final = index.table_counts
        self._reserved: Final = reserved
        """Hfns of root and context tables of the IOMMU: none of these can be a table here."""
        self.change = Change()
        """What changed since the owner of the follower last replaced this."""
        self.refilled: Final[dict[int, int]] = {}
        """Hfn of a table that was written as a whole -> 0."""
        self._written: dict[int, list[int]] = {}
        """Hfn of a table -> words of it written since the last look."""

    def page_written(self, hfn: int) -> None:
        """The host is about to write a whole frame: compare it once, later, instead of 512 reported words."""
        if hfn in self._tables:
            self._memory.watched[hfn] = 0
            self.refilled[hfn] = 0

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """Listener for suites without the oracle `host_memory`, which calls `page_written` too."""
        if size == PAGE_SIZE and write:
            self.page_written(hpa >> PAGE_SHIFT)

    def follow_entries(self, entries: list[tuple[int, int]]) -> None:
        """Compare table words, given as (-level of the table, word).

        Between two updates a table page can be unlinked, filled with other words, and linked somewhere else. So
        unlinked tables are dropped first, from the top down: words in an unlinked page are not entries.
        """
        self._written = {}
        if len(entries) > 1:
            entries.sort()
            if entries[0][0] < -1:
                self._unlink_first(entries)
        for _, word in entries:
            table = self._tables.get(word >> 9)
            if table is not None:
                self._entry(word, table)

    def _unlink_first(self, entries: list[tuple[int, int]]) -> None:
        """Drop the tables that the words, sorted from the top level down, no longer link."""
        for _, word in entries:
            self._written.setdefault(word >> 9, []).append(word)
        for level, word in entries:
            if level == -1:
                break
            table = self._tables.get(word >> 9)
            if table is not None:
                old = self._entries.get(word, 0)
                if old and old != self._words[word] and is_link(old, table.level):
                    page = table.page + ((word & WORDS_PER_PAGE - 1) << 9 * (table.level - 1))
                    self._unlink((old & ADDRESS) >> PAGE_SHIFT, Table(table.space, table.level - 1, page))

    def follow_refilled(self) -> None:
        """Compare the pages that were written as a whole and are still tables."""
        refilled = list(self.refilled)
        self.refilled.clear()
        for hfn in refilled:
            table = self._tables.get(hfn)
            if table is None:
                continue
            memory = self._memory
            memory.watched[hfn] = 1
            if hfn not in self._populations and memory.read(hfn << PAGE_SHIFT, PAGE_SIZE) == ZERO_PAGE:
                continue
            for word in range(hfn << 9, (hfn + 1) << 9):
                self._entry(word, table)

    def _entry(self, word: int, table: Table) -> None:
        """Compare one word of a table with the index."""
        space, level, first = table
        entry: int = self._words[word]
        if not entry & (DMA_RIGHTS if space & DMA else EPT_RIGHTS):
            entry = 0
        old = self._entries.get(word, 0)
        if entry == old:
            return
        page = first + ((word & WORDS_PER_PAGE - 1) << 9 * (level - 1))
        if old:
            self._drop_entry(word, table, page, old, entry)
        if entry:
            self._add_entry(word, table, page, entry)
        elif old:
            population = self._populations[word >> 9] - 1
            if population:
                self._populations.put(word >> 9, population)
            else:
                self._populations.drop(word >> 9)
                self.change.emptied.append(word >> 9)

    def _add_entry(self, word: int, table: Table, page: int, entry: int) -> None:
        """Note an entry that is new or differs from before."""
        space, level, _ = table
        entries = self._entries
        if word not in entries:
            self._populations.put(word >> 9, self._populations.get(word >> 9, 0) + 1)
        entries.put(word, entry)
        if malformation(space, level, entry):
            self.change.malformed.append(word)
        frame = (entry & ADDRESS) >> PAGE_SHIFT
        if level > 1 and is_link(entry, level):
            self._link(frame, Table(space, level - 1, page))
            return
        rights = entry & (DMA_RIGHTS if space & DMA else EPT_RIGHTS)
        self.change.added.append(_leaf((word, space, level, page, frame, rights, entry & FOREIGN != 0)))
        if level == 1:
            named = self._leaves.get(frame)
            self._leaves.put(frame, (word,) if named is None else (*named, word))
        else:
            for block in range(frame >> 9, (frame >> 9) + (1 << 9 * (level - LARGE_LEVEL))):
                self._large.put(block, (*self._large.get(block, ()), word))

    def _drop_entry(self, word: int, table: Table, page: int, old: int, new: int) -> None:
        """Note that the entry `old` was replaced by `new` (0: removed)."""
        level = table.level
        frame = (old & ADDRESS) >> PAGE_SHIFT
        if level == 1:
            _forget(self._leaves, frame, word)
        elif not is_link(old, level):
            for block in range(frame >> 9, (frame >> 9) + (1 << 9 * (level - LARGE_LEVEL))):
                _forget(self._large, block, word)
        else:
            self._unlink(frame, Table(table.space, level - 1, page))
            if not new:
                self._entries.drop(word)
            return
        if not new:
            self._entries.drop(word)
        if (old ^ new) & ADDRESS or old & ~new & EPT_RIGHTS or (old ^ new) & LARGE:
            self.change.removed.append(Removed(table.space, level, page, old))

    def _link(self, hfn: int, table: Table) -> None:
        """Note a table that became reachable, with all its entries."""
        memory = self._memory
        if hfn >= memory.frames:
            self.change.misplaced.append((table, hfn, "that frame is beyond memory"))
            return
        if hfn in self._tables or hfn in self._reserved:
            # Only the first link is followed, so that the tables form trees.
            self.change.misplaced.append((table, hfn, f"that frame is already a table: {self._tables.get(hfn)}"))
            return
        self._tables.put(hfn, table)
        memory.watched[hfn] = 1
        self.change.linked.append(hfn)
        self.change.tables = True
        self._table_counts[table.space & ~DMA] += 1
        words = self._index.present_entries(hfn, table.space)
        if not words:
            self.change.emptied.append(hfn)
            return
        shift = 9 * (table.level - 1)
        first = hfn << 9
        if table.level > 1:
            for word, entry in words:
                self._add_entry(word, table, table.page + (word - first << shift), entry)
            return
        # All entries at once: splitting a large leaf gives 512 small ones.
        self._populations.put(hfn, len(words))
        self._entries.put_new(words)
        space, _, page = table
        rights = DMA_RIGHTS if space & DMA else EPT_RIGHTS
        offset = page - first
        leaves = self._leaves
        added = [
            _leaf(
                (word, space, 1, offset + word, (entry & ADDRESS) >> PAGE_SHIFT, entry & rights, entry & FOREIGN != 0)
            )
            for word, entry in words
        ]
        # All entries together have one or two different formats, nearly always.
        formats = {entry & LEAF_BITS for _, entry in words}
        if any(malformation(space, 1, bits) for bits in formats):
            self.change.malformed += [word for word, entry in words if malformation(space, 1, entry)]
        for leaf in added:
            leaves.put(leaf.frame, (*leaves.get(leaf.frame, ()), leaf.word))
        self.change.added += added

    def _unlink(self, hfn: int, table: Table) -> None:
        """Drop a table that is no longer linked, with everything below it."""
        if self._tables.get(hfn) != table:
            return
        self._memory.watched[hfn] = 0
        self.change.tables = self.change.unlinked = True
        self._table_counts[table.space & ~DMA] -= 1
        left = self._populations.get(hfn, 0)
        if left:
            self._drop_entries(hfn, table, left)
            self._populations.drop(hfn)
        self._tables.drop(hfn)

    def _drop_entries(self, hfn: int, table: Table, left: int) -> None:
        """Drop the `left` entries of an unlinked table. Nearly always they are among the words just written."""
        shift = 9 * (table.level - 1)
        first = hfn << 9
        for words in (self._written.get(hfn, ()), range(first, first + WORDS_PER_PAGE)):
            for word in words:
                entry = self._entries.get(word)
                if entry is not None:
                    self._drop_entry(word, table, table.page + (word - first << shift), entry, 0)
                    left -= 1
                    if not left:
                        return


def _forget(index: ShadowMap[int, tuple[int, ...]], key: int, word: int) -> None:
    """Remove one word from a reverse index."""
    words = index.get(key, ())
    if words == (word,):
        index.drop(key)
        return
    left = tuple([other for other in words if other != word])
    if left:
        index.put(key, left)
    else:
        index.drop(key)
