"""The shadow: everything that domains and devices can reach, read from the bytes of the tables that hardware walks.

    EPT root of each domain, IOMMU table of each domain  -> tables -> entries -> leaves -> frames
    root table register -> context entries               -> which table each device uses
    frame table                                          -> owner, state and counts of each frame

The hypervisor provides the addresses of the roots, once, and its grant tables; none of its code runs here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import DMA, DMA_LEVELS, EPT_LEVELS, Change, Table
from hvfuzz.oracles.shadow.context_entries import ContextEntries
from hvfuzz.oracles.shadow.frame_words import FrameWords
from hvfuzz.oracles.shadow.grant_tables import GrantTables
from hvfuzz.oracles.shadow.table_follower import TableFollower
from hvfuzz.oracles.shadow.table_index import TableIndex


class PageTableShadow(TableIndex):
    """The shadow of one machine. `attach` reads everything, `update` follows what was written, `reset` goes back."""

    __slots__ = (
        "_base_tables",
        "_calls",
        "_context_entries",
        "_follower",
        "_grant_tables",
        "_stores",
        "_words_written",
        "_work",
        "contexts",
        "domains",
        "frames",
        "grants",
        "handles",
        "host_access",
        "iommu_frames",
        "page_written",
        "refilled",
        "sides",
        "state_counts",
    )

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        # A copy, because an access to the hypervisor's own array counts as work of the host.
        self.domains: Final = list.copy(scene.hypervisor.domains)
        self.frames: Final = FrameWords(scene)
        self.state_counts: Final = self.frames.state_counts
        self._context_entries: Final = ContextEntries(scene)
        self.contexts: Final = self._context_entries.entries
        self.iommu_frames: Final = self._context_entries.frames
        self._grant_tables: Final = GrantTables(self.domains)
        self.grants: Final = self._grant_tables.grants
        self.handles: Final = self._grant_tables.handles
        self.sides: Final = self._grant_tables.sides
        self._follower: Final = TableFollower(self, self.iommu_frames)
        self.refilled: Final = self._follower.refilled
        self.page_written: Final[Callable[[int], None]] = self._follower.page_written
        self.host_access: Final[Callable[[int, int, bool], None]] = self._follower.host_access
        self._base_tables: list[int] = []
        self._calls: Final = scene.calls
        self._work: Final = scene.hypervisor.host.work
        self._stores = self._work.stores
        self._words_written: Final = scene.machine.memory.written

    def attach(self) -> None:
        """Read everything reachable from the machine as it is now: this is the base."""
        self.frames.read()
        self.table_counts[:] = [0] * len(self.domains)
        for domain in self.domains:
            self.roots[domain.id] = domain.stage2.root >> PAGE_SHIFT
            self.roots[domain.id | DMA] = domain.dma.root >> PAGE_SHIFT
        for space, root in self.roots.items():
            self._read_tree(root, Table(space, DMA_LEVELS if space & DMA else EPT_LEVELS, 0), self.iommu_frames)
        self._context_entries.find_frames()
        self._context_entries.follow(Change())
        self._grant_tables.read()
        self._words_written.clear()
        self._start()
        self._base_tables = list(self.table_counts)
        for followed in (self.entries, self.tables, self.populations, self.leaves, self.large, self.contexts):
            followed.rebase()

    def reset(self) -> None:
        """Return to the base, after the machine was put back to its snapshot."""
        for followed in (self.entries, self.tables, self.populations, self.leaves, self.large, self.contexts):
            followed.reset()
        self.frames.reset()
        self._grant_tables.reset()
        self.table_counts[:] = self._base_tables
        self.refilled.clear()
        self._start()
        self._words_written.clear()

    def _start(self) -> None:
        """Nothing changed since the last update."""
        self._follower.change = Change()
        self._stores = self._work.stores

    def update(self) -> Change | None:
        """Follow what was written since the last update; None if nothing of interest changed."""
        written, calls = self._words_written, self._calls
        changed = (written or self.refilled) and self._follow(written)
        if calls.applied or self.stored:
            calls.applied = False
            self._stores = self._work.stores
            if self._grant_tables.follow(self._follower.change):
                changed = True
        if not changed:
            return None
        change = self._follower.change
        self._follower.change = Change()
        if change.unlinked:
            # A leaf can come and go with its table within one update.
            change.added = [leaf for leaf in change.added if self.leaf(leaf.word) == leaf]
        return change

    @property
    def stored(self) -> bool:
        """Whether an array of the hypervisor, such as a grant table, was written since the last update."""
        return self._work.stores != self._stores

    def _follow(self, written: list[int]) -> bool:
        """Compare the written words with what they were; whether any differs."""
        words = self.scene.words
        first = self.scene.frame_words
        old_frames = self.frames.values
        noted = self.frames.changed
        last = first + len(old_frames)
        change = self._follower.change
        counts = self.state_counts
        tables = self.tables
        contexts = False
        entries: list[tuple[int, int]] = []
        many = len(written)
        if many >= LARGE_FRAMES:
            self.frames.follow_blocks(written, change)
        frames = change.scattered
        # Often it is one word, or a few different ones.
        seen = dict.fromkeys(written) if many > 1 else (*written,)
        written.clear()
        for hpa in seen:
            word = hpa >> 3
            if first <= word < last:
                new = words[word]
                hfn = word - first
                old = old_frames[hfn]
                if new != old:
                    frames[hfn] = old
                    noted.append(hfn)
                    old_frames[hfn] = new
                    if (old ^ new) & 0xFF00:
                        counts[old >> 8 & 0xFF] -= 1
                        counts[new >> 8 & 0xFF] += 1
                continue
            table = tables.get(word >> 9)
            if table is not None:
                entries.append((-table.level, word))
            elif word >> 9 in self.iommu_frames:
                contexts = True
        if change.blocks:
            change.frames.update(frames)
        if entries:
            self._follower.follow_entries(entries)
        if self.refilled:
            self._follower.follow_refilled()
        if contexts:
            self._context_entries.follow(change)
        return bool(
            change.frames or change.added or change.removed or change.tables or change.contexts or change.misplaced
        )

    def device_domain(self, bdf: int) -> int:
        """The domain whose table the context entry of the device names, -1 if there is none."""
        context = self.contexts.get(bdf)
        if context is not None:
            root = context[0] >> PAGE_SHIFT
            for domain in self.domains:
                if self.roots[domain.id | DMA] == root:
                    return domain.id
        return -1
