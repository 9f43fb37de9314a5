"""Checks of paging pools and of the allocator, and that no table page is wasted.

Helper of the oracle `recount`, which says what changed.
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
"""Bit map of the allocator for a block of free frames."""


class PoolChecks:
    """Checks the pools, tables and the allocator of one machine. `report`(rule, message) is that of the oracle."""

    __slots__ = ("_base", "_pages", "_report", "_scene", "_shadow", "known", "live")

    def __init__(self, scene: Scene, shadow: PageTableShadow, report: Callable[[str, str], None]) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._report: Final = report
        self._pages: list[int] = []
        """Domain -> number of its table pages, in the pool or in use."""
        self._base: list[list[int]] = []
        self.known: list[list[int]] = []
        """Domain -> its pool when it was last checked."""
        self.live: Final = [domain.pool for domain in shadow.domains]
        """Domain -> its pool. These lists of the hypervisor stay the same objects."""

    def attach(self) -> None:
        """Read the pools: this is the base."""
        shadow = self._shadow
        self._pages = [
            len(domain.pool) + used for domain, used in zip(shadow.domains, shadow.table_counts, strict=True)
        ]
        self._base = self.known = [list(domain.pool) for domain in shadow.domains]

    def reset(self) -> None:
        """Return to the base."""
        self.known = list(self._base)

    def check_pool(self, number: int, pool: list[int]) -> None:
        """Check that a pool has the right number of pages, each of them once and unused."""
        used = self._shadow.table_counts[number]
        if len(pool) + used != self._pages[number]:
            text = f"{len(pool)} pages in the pool and {used} in use as tables, {self._pages[number]} at boot"
            self._report("pool", f"dom{number}: {text}")
        if pool == self.known[number]:
            return
        self.known[number] = list(pool)
        if len(set(pool)) != len(pool):
            self._report("pool", f"dom{number}: the pool holds a page twice")
        values = self._shadow.frames.values
        if pool and min(pool) >= 0 and max(pool) < len(values):
            # Nearly always all the words are equal.
            words = set(map(values.__getitem__, pool))
            if all(word & 0xFFFF == POOL << 8 | number for word in words):
                return
        for hfn in pool:
            if not 0 <= hfn < len(values) or values[hfn] & 0xFFFF != POOL << 8 | number:
                self._report("pool", f"dom{number}: the pool holds {self._scene.describe(hfn)}")

    def check_free(self, change: Change) -> None:
        """Compare the allocator's bit maps with the states of the frames that changed."""
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
                self._report("free", f"the allocator's bit map says {text} for {self._scene.describe(hfn)}")
        if allocator.available != self._shadow.state_counts[FREE]:
            text = f"the allocator counts {allocator.available} free frames, {self._shadow.state_counts[FREE]} are FREE"
            self._report("free", text)

    def check_table(self, hfn: int) -> None:
        """A linked table, other than a root, must have an entry."""
        table = self._shadow.tables.get(hfn)
        if table is not None and hfn not in self._shadow.populations and self._shadow.roots[table.space] != hfn:
            where = f"{name_of(table.space)}: level {table.level} table for page {table.page:#x}"
            self._report("empty", f"{where} is linked but has no entry")

    def check_sizes(self, added: list[Leaf]) -> None:
        """Check that no table of small leaves is used where the ABI promises one large leaf."""
        call = self._scene.calls.current
        if call.declaration is None or call.args is None:
            return
        if call.declaration.name == "memory.populate" and call.args.order:
            if any(leaf.level != LARGE_LEVEL for leaf in added):
                self._report("size", f"a block is mapped by {len(added)} leaves instead of one large leaf")
        elif call.declaration.name == "memory.protect":
            for space, block in {(leaf.space, leaf.page >> 9): None for leaf in added if leaf.level == 1}:
                if self._could_be_large(space, block << 9):
                    where = f"{name_of(space)}, page {block << 9:#x}"
                    self._report("size", f"{where}: 512 small leaves where one large leaf would do")

    def _could_be_large(self, space: int, page: int) -> bool:
        """Whether the small leaves of the 512 pages from `page` on could be one large leaf."""
        first = self._shadow.find(space, page)
        if first is None or first.level != 1 or first.foreign or first.frame % LARGE_FRAMES:
            return False
        entries = self._shadow.entries
        entry = entries[first.word]
        return all(entries.get(first.word + at) == entry + (at << PAGE_SHIFT) for at in reversed(range(LARGE_FRAMES)))

    def audit_free(self) -> None:
        """Compare the allocator's bit maps with the states of all frames."""
        for number, bits in enumerate(self._scene.hypervisor.allocator.blocks):
            first = number << 9
            words = self._shadow.frames.values[first : first + LARGE_FRAMES]
            free = (1 << len(words)) - 1
            if words.count(FREE_WORD) != len(words):
                digits = {word: "0" if word & 0xFF00 else "1" for word in set(words)}
                free = int("".join([digits[word] for word in reversed(words)]), 2)
            if free != bits:
                self._report(
                    "free",
                    f"frames {first:#x} to {first + 511:#x}: the allocator's bit map and the frame states differ",
                )
