"""The trees of tables in the shadow: every present word of every table that hardware can walk, and who maps a frame.

Memory reports the words written in watched frames, and every table that becomes reachable is watched from then on:
so following the trees costs what was written, and not what there is.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from hvfuzz.hypervisor.memory.table_tree import FOREIGN
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE
from hvfuzz.machine.memory import ZERO_PAGE
from hvfuzz.machine.mmu.ept import MEMORY_TYPE
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    DMA_LEVELS,
    DMA_RESERVED,
    DMA_RIGHTS,
    EPT_LEVELS,
    EPT_RIGHTS,
    LARGE,
    LARGE_LEVEL,
    Change,
    Leaf,
    Removed,
    Table,
    is_link,
    malformation,
)
from hvfuzz.oracles.shadow.rewindable import ShadowMap

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene

PART: Final = 256
ZERO_PART: Final = bytes(PART)
LEAF_BITS: Final = MEMORY_TYPE | EPT_RIGHTS | DMA_RESERVED
"""The bits that decide whether a small leaf is well-formed."""
_PART: Final = Struct(f"<{PART // 8}Q")
# The constructor of a NamedTuple unpacks its arguments one by one: this is twice as quick.
_leaf = partial(tuple.__new__, Leaf)
_removed = partial(tuple.__new__, Removed)
_table = partial(tuple.__new__, Table)


class Trees:
    """All trees of one machine, flat: words and frames are keys. What changes is noted in `change`."""

    __slots__ = (
        "_words",
        "_written",
        "change",
        "entries",
        "large",
        "leaves",
        "populations",
        "refilled",
        "root_frames",
        "roots",
        "scene",
        "table_counts",
        "tables",
    )

    def __init__(self, scene: Scene) -> None:
        self.scene: Final = scene
        self._words: Final = scene.words
        self.entries: Final[ShadowMap[int, int]] = ShadowMap()
        """Word index -> present entry (leaf or table) of a reachable table."""
        self.tables: Final[ShadowMap[int, Table]] = ShadowMap()
        """Hfn -> the table in it."""
        self.populations: Final[ShadowMap[int, int]] = ShadowMap()
        """Hfn of a table -> number of its present entries; absent for none."""
        self.leaves: Final[ShadowMap[int, tuple[int, ...]]] = ShadowMap()
        """Hfn -> words of the 4 KiB leaves that name it."""
        self.large: Final[ShadowMap[int, tuple[int, ...]]] = ShadowMap()
        """Hfn >> 9 -> words of the larger leaves that name those 512 frames."""
        self.table_counts: list[int] = []
        """Number of reachable tables of each domain, but for roots."""
        self.roots: Final[dict[int, int]] = {}
        """Space -> hfn of its root table."""
        self.root_frames: Final[dict[int, int]] = {}
        """Hfn of a root or context table of the IOMMU -> 0."""
        self.change = Change()
        """What changed since the last look."""
        self.refilled: dict[int, int] = {}
        """Hfn of a table that was written as a whole -> 0."""
        self._written: dict[int, list[int]] = {}
        """Hfn of a table -> words of it written since the last look."""

    def page_written(self, hfn: int) -> None:
        """The host is about to write the whole frame: look at it once, later, and not at 512 reported words."""
        if hfn in self.tables:
            self.scene.machine.memory.watched[hfn] = 0
            self.refilled[hfn] = 0

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """For suites without the oracle that looks at each access of the host."""
        if size == PAGE_SIZE and write:
            self.page_written(hpa >> PAGE_SHIFT)

    def _look_at_entries(self, entries: list[tuple[int, int]]) -> None:
        """Compare table words, given as (-level of the table, word).

        A page can leave one place and turn up in another between two updates, and be filled with something else
        in the meantime. So what is unlinked goes first, from the top: what is in an unlinked page is no entry.
        """
        self._written = {}
        if len(entries) > 1:
            entries.sort()
            if entries[0][0] < -1:
                self._unlink_first(entries)
        for _, word in entries:
            table = self.tables.get(word >> 9)
            if table is not None:
                self._entry(word, table)

    def _unlink_first(self, entries: list[tuple[int, int]]) -> None:
        """Unlink the tables that the words, which are in order, do not link any more."""
        for _, word in entries:
            self._written.setdefault(word >> 9, []).append(word)
        for level, word in entries:
            if level == -1:
                break
            table = self.tables.get(word >> 9)
            if table is not None:
                old = self.entries.get(word, 0)
                if old and old != self.scene.words[word] and is_link(old, table.level):
                    page = table.page + ((word & WORDS_PER_PAGE - 1) << 9 * (table.level - 1))
                    self._unlink((old & ADDRESS) >> PAGE_SHIFT, Table(table.space, table.level - 1, page))

    def _look_at_refilled(self) -> None:
        """Compare the tables that were written as a whole, as far as they are still tables."""
        refilled = list(self.refilled)
        self.refilled.clear()
        for hfn in refilled:
            table = self.tables.get(hfn)
            if table is None:
                continue
            memory = self.scene.machine.memory
            memory.watched[hfn] = 1
            if hfn not in self.populations and memory.read(hfn << PAGE_SHIFT, PAGE_SIZE) == ZERO_PAGE:
                continue
            for word in range(hfn << 9, (hfn + 1) << 9):
                self._entry(word, table)

    def _entry(self, word: int, table: Table) -> None:
        """Take note of a table word as it is now."""
        space, level, first = table
        entry: int = self._words[word]
        if not entry & (DMA_RIGHTS if space & DMA else EPT_RIGHTS):
            entry = 0
        old = self.entries.get(word, 0)
        if entry == old:
            return
        page = first + ((word & WORDS_PER_PAGE - 1) << 9 * (level - 1))
        if old:
            self._drop_entry(word, table, page, old, entry)
        if entry:
            self._add_entry(word, table, page, entry)
        elif old:
            population = self.populations[word >> 9] - 1
            if population:
                self.populations.put(word >> 9, population)
            else:
                self.populations.drop(word >> 9)
                self.change.emptied.append(word >> 9)

    def _add_entry(self, word: int, table: Table, page: int, entry: int) -> None:
        """An entry is there that was not, or was another one."""
        space, level, _ = table
        entries = self.entries
        if word not in entries:
            self.populations.put(word >> 9, self.populations.get(word >> 9, 0) + 1)
        entries.put(word, entry)
        if malformation(space, level, entry):
            self.change.malformed.append(word)
        frame = (entry & ADDRESS) >> PAGE_SHIFT
        if level > 1 and is_link(entry, level):
            self._link(frame, _table((space, level - 1, page)))
            return
        rights = entry & (DMA_RIGHTS if space & DMA else EPT_RIGHTS)
        self.change.added.append(_leaf((word, space, level, page, frame, rights, entry & FOREIGN != 0)))
        if level == 1:
            named = self.leaves.get(frame)
            self.leaves.put(frame, (word,) if named is None else (*named, word))
        else:
            for block in range(frame >> 9, (frame >> 9) + (1 << 9 * (level - LARGE_LEVEL))):
                self.large.put(block, (*self.large.get(block, ()), word))

    def _drop_entry(self, word: int, table: Table, page: int, old: int, new: int) -> None:
        """The entry `old` is not there any more; `new` (0: none) takes its place."""
        level = table.level
        frame = (old & ADDRESS) >> PAGE_SHIFT
        if level == 1:
            _forget(self.leaves, frame, word)
        elif not is_link(old, level):
            for block in range(frame >> 9, (frame >> 9) + (1 << 9 * (level - LARGE_LEVEL))):
                _forget(self.large, block, word)
        else:
            self._unlink(frame, Table(table.space, level - 1, page))
            if not new:
                self.entries.drop(word)
            return
        if not new:
            self.entries.drop(word)
        if (old ^ new) & ADDRESS or old & ~new & EPT_RIGHTS or (old ^ new) & LARGE:
            self.change.removed.append(_removed((table.space, level, page, old)))

    def _link(self, hfn: int, table: Table) -> None:
        """The frame is a table that can be reached, with all that is in it."""
        memory = self.scene.machine.memory
        if hfn >= memory.frames:
            self.change.misplaced.append((table, hfn, "no memory is there"))
            return
        if hfn in self.tables or hfn in self.root_frames:
            # Only the first link is followed: the tree stays a tree.
            self.change.misplaced.append((table, hfn, f"it is a table already: {self.tables.get(hfn)}"))
            return
        self.tables.put(hfn, table)
        memory.watched[hfn] = 1
        self.change.linked.append(hfn)
        self.change.tables = True
        self.table_counts[table.space & ~DMA] += 1
        words = self._present(hfn, table)
        if not words:
            self.change.emptied.append(hfn)
            return
        shift = 9 * (table.level - 1)
        first = hfn << 9
        if table.level > 1:
            for word, entry in words:
                self._add_entry(word, table, table.page + (word - first << shift), entry)
            return
        # All at once: a large leaf that is split gives 512 small ones.
        self.populations.put(hfn, len(words))
        self.entries.put_new(words)
        space, _, page = table
        rights = DMA_RIGHTS if space & DMA else EPT_RIGHTS
        offset = page - first
        leaves = self.leaves
        added = [
            _leaf(
                (word, space, 1, offset + word, (entry & ADDRESS) >> PAGE_SHIFT, entry & rights, entry & FOREIGN != 0)
            )
            for word, entry in words
        ]
        # The bits of all of them together, as few as they nearly always are.
        formats = {entry & LEAF_BITS for _, entry in words}
        if any(malformation(space, 1, bits) for bits in formats):
            self.change.malformed += [word for word, entry in words if malformation(space, 1, entry)]
        for leaf in added:
            leaves.put(leaf.frame, (*leaves.get(leaf.frame, ()), leaf.word))
        self.change.added += added

    def _present(self, hfn: int, table: Table) -> list[tuple[int, int]]:
        """(word, entry) of the present entries in a page that is a table."""
        page = self.scene.machine.memory.read(hfn << PAGE_SHIFT, PAGE_SIZE)
        if page == ZERO_PAGE:
            return []
        rights = DMA_RIGHTS if table.space & DMA else EPT_RIGHTS
        first = hfn << 9
        return [
            (word, entry)
            for start in range(0, PAGE_SIZE, PART)
            # Most tables are nearly empty.
            if page[start : start + PART] != ZERO_PART
            for word, entry in enumerate(_PART.unpack_from(page, start), first + (start >> 3))
            if entry & rights
        ]

    def _link_all(self, hfn: int, table: Table) -> None:
        """As `_link`, for the base state: of which nothing is a change, and nothing is undone."""
        memory = self.scene.machine.memory
        if hfn >= memory.frames or hfn in self.tables or hfn in self.root_frames:
            return
        space, level, page = table
        self.tables[hfn] = table
        memory.watched[hfn] = 1
        if page or level != (DMA_LEVELS if space & DMA else EPT_LEVELS):
            self.table_counts[space & ~DMA] += 1
        words = self._present(hfn, table)
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
                self._link_all(frame, Table(space, level - 1, first))
            else:
                for block in range(frame >> 9, (frame >> 9) + (1 << 9 * (level - LARGE_LEVEL))):
                    large[block] = (*large.get(block, ()), word)

    def _unlink(self, hfn: int, table: Table) -> None:
        """The frame is that table no more; what was below it cannot be reached through it either."""
        if self.tables.get(hfn) != table:
            return
        self.scene.machine.memory.watched[hfn] = 0
        self.change.tables = self.change.unlinked = True
        self.table_counts[table.space & ~DMA] -= 1
        left = self.populations.get(hfn, 0)
        if left:
            self._drop_entries(hfn, table, left)
            self.populations.drop(hfn)
        self.tables.drop(hfn)

    def _drop_entries(self, hfn: int, table: Table, left: int) -> None:
        """Drop the `left` entries of a table that is unlinked: nearly always they are among the words just written."""
        shift = 9 * (table.level - 1)
        first = hfn << 9
        for words in (self._written.get(hfn, ()), range(first, first + WORDS_PER_PAGE)):
            for word in words:
                entry = self.entries.get(word)
                if entry is not None:
                    self._drop_entry(word, table, table.page + (word - first << shift), entry, 0)
                    left -= 1
                    if not left:
                        return

    # Questions.

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
        return _leaf((word, space, level, page, (entry & ADDRESS) >> PAGE_SHIFT, rights, entry & FOREIGN != 0))

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


def _forget(index: ShadowMap[int, tuple[int, ...]], key: int, word: int) -> None:
    """Take one word out of a reverse index."""
    words = index.get(key, ())
    if words == (word,):
        index.drop(key)
        return
    left = tuple([other for other in words if other != word])
    if left:
        index.put(key, left)
    else:
        index.drop(key)
