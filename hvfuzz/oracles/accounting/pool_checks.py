"""Table pages and free frames: pools and the allocator hold what they should, and no table is spent in vain.

An oracle's part, not one itself: `Recount` says what changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hvfuzz.hypervisor.memory.frames import FREE_WORD, FrameState
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT
from hvfuzz.oracles.shadow.changes import LARGE_LEVEL, name_of

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.changes import Change, Leaf
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

FREE: Final = int(FrameState.FREE)
POOL: Final = int(FrameState.POOL)
WHOLE: Final = (1 << LARGE_FRAMES) - 1
"""A block of which each frame is free, in the allocator's bit map."""


class PoolChecks:
    """Judges the pools, tables and the allocator of one machine. `report` is the oracle's."""

    __slots__ = ("_base", "_pages", "_report", "_scene", "_shadow", "known", "live")

    def __init__(self, scene: Scene, shadow: PageTableShadow, report: Callable[[str, str], None]) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._report: Final = report
        self._pages: list[int] = []
        """Table pages of each domain, in the pool or in use."""
        self._base: list[list[int]] = []
        self.known: list[list[int]] = []
        """The pools as they were when they were last checked."""
        self.live: Final = [domain.pool for domain in shadow.domains]
        """The hypervisor's own lists, which stay the same objects."""

    def attach(self) -> None:
        """Take note of the pools as they are now."""
        shadow = self._shadow
        self._pages = [
            len(domain.pool) + used for domain, used in zip(shadow.domains, shadow.table_counts, strict=True)
        ]
        self._base = self.known = [list(domain.pool) for domain in shadow.domains]

    def reset(self) -> None:
        """Return to the pools at the snapshot."""
        self.known = list(self._base)

    def check_pool(self, number: int, pool: list[int]) -> None:
        """The pages of a pool: as many as there have to be, and each of them free to use."""
        used = self._shadow.table_counts[number]
        if len(pool) + used != self._pages[number]:
            text = f"{len(pool)} pages in the pool, {used} in use as tables, {self._pages[number]} given"
            self._report("pool", f"dom{number}: {text}")
        if pool == self.known[number]:
            return
        self.known[number] = list(pool)
        if len(set(pool)) != len(pool):
            self._report("pool", f"dom{number}: a page is twice in the pool")
        values = self._shadow.frames.values
        if pool and min(pool) >= 0 and max(pool) < len(values):
            # Nearly always all the words are one and the same.
            words = set(map(values.__getitem__, pool))
            if all(word & 0xFFFF == POOL << 8 | number for word in words):
                return
        for hfn in pool:
            if not 0 <= hfn < len(values) or values[hfn] & 0xFFFF != POOL << 8 | number:
                self._report("pool", f"dom{number}: in the pool is {self._scene.describe(hfn)}")

    def check_free(self, change: Change) -> None:
        """The allocator's bit maps against the states of the frames that changed."""
        allocator = self._scene.hypervisor.allocator
        values = self._shadow.frames.values
        blocks = allocator.blocks
        scattered = change.scattered
        for block, (old, new) in change.blocks.items():
            if (old ^ new) & 0xFF00 and blocks[block] != (0 if new & 0xFF00 else WHOLE):
                scattered = change.frames
        for hfn, old in scattered.items():
            new = values[hfn]
            if (old ^ new) & 0xFF00 and (blocks[hfn >> 9] >> (hfn & 511) & 1) != (not new & 0xFF00):
                text = "free" if new & 0xFF00 else "in use"
                self._report("free", f"{text} for the allocator: {self._scene.describe(hfn)}")
        if allocator.available != self._shadow.state_counts[FREE]:
            text = f"{allocator.available} frames for the allocator, {self._shadow.state_counts[FREE]} by their state"
            self._report("free", text)

    def check_table(self, hfn: int) -> None:
        """A table without entries belongs in the pool."""
        table = self._shadow.tables.get(hfn)
        if table is not None and hfn not in self._shadow.populations and self._shadow.roots[table.space] != hfn:
            where = f"{name_of(table.space)}: level {table.level} table for page {table.page:#x}"
            self._report("empty", f"{where} is linked and has no entry")

    def check_sizes(self, added: list[Leaf]) -> None:
        """A table of small leaves is spent where the contract says that a large leaf takes its place."""
        call = self._scene.calls.current
        if call.declaration is None or call.args is None:
            return
        if call.declaration.name == "memory.populate" and call.args.order:
            if any(leaf.level != LARGE_LEVEL for leaf in added):
                self._report("size", f"a block is mapped by {len(added)} leaves")
        elif call.declaration.name == "memory.protect":
            for space, block in {(leaf.space, leaf.page >> 9): None for leaf in added if leaf.level == 1}:
                if self._could_be_large(space, block << 9):
                    where = f"{name_of(space)}, page {block << 9:#x}"
                    self._report("size", f"{where}: 512 small leaves, all alike, of 512 frames in a row")

    def _could_be_large(self, space: int, page: int) -> bool:
        """Whether the table of small leaves for the 512 pages says what one large leaf would."""
        first = self._shadow.find(space, page)
        if first is None or first.level != 1 or first.foreign or first.frame % LARGE_FRAMES:
            return False
        entries = self._shadow.entries
        entry = entries[first.word]
        return all(entries.get(first.word + at) == entry + (at << PAGE_SHIFT) for at in reversed(range(LARGE_FRAMES)))

    def audit_free(self) -> None:
        """Compare the allocator's bit maps with the states of every frame."""
        for number, bits in enumerate(self._scene.hypervisor.allocator.blocks):
            first = number << 9
            words = self._shadow.frames.values[first : first + LARGE_FRAMES]
            free = (1 << len(words)) - 1
            if words.count(FREE_WORD) != len(words):
                digits = {word: "0" if word & 0xFF00 else "1" for word in set(words)}
                free = int("".join([digits[word] for word in reversed(words)]), 2)
            if free != bits:
                self._report("free", f"frames {first:#x} to {first + 511:#x}: allocator and states differ")
