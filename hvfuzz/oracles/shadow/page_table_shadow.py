"""The shadow: everything that domains and devices can reach, read from the bytes of the tables that hardware walks.

    EPT root of each domain, IOMMU table of each domain  -> tables -> entries -> leaves -> frames
    root table register -> context entries               -> which table each device uses
    frame table                                          -> owner, state and counts of each frame

From the hypervisor come the addresses of the roots, once, and its grant and handle tables; none of its code runs here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE
from hvfuzz.machine.vtd import legacy_mode
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    DMA_LEVELS,
    EPT_LEVELS,
    Change,
    Context,
    Table,
    context_of,
    differences,
    sides_of,
)
from hvfuzz.oracles.shadow.rewindable import ShadowMap, ShadowWords
from hvfuzz.oracles.shadow.table_trees import Trees

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Grant, Mapping
    from hvfuzz.oracles.scene.scene import Scene


class PageTableShadow(Trees):
    """The shadow of one machine. `attach` reads everything; from then on `update` follows, and `reset` goes back."""

    __slots__ = (
        "_all_shadows",
        "_base_counts",
        "_base_entries",
        "_base_handles",
        "_base_tables",
        "_calls",
        "_live_entries",
        "_live_handles",
        "_stores",
        "_words_written",
        "_work",
        "contexts",
        "domains",
        "frames",
        "grants",
        "handles",
        "sides",
        "state_counts",
    )

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.domains: Final = list.copy(scene.hypervisor.domains)
        self.contexts: Final[ShadowMap[int, Context]] = ShadowMap()
        """Device (bdf) -> its context entry, if that is present."""
        self.sides: Final[ShadowMap[tuple[int, int], tuple[Mapping, ...]]] = ShadowMap()
        """(space, page) -> the live grant mappings that have a side there."""
        self.frames: ShadowWords = ShadowWords([])
        """Frame words."""
        self.state_counts: list[int] = []
        """Number of frames in each state."""
        self.grants: list[list[Grant | None]] = []
        self.handles: list[list[Mapping | None]] = []
        self._base_entries: list[list[Grant | None]] = []
        self._base_handles: list[list[Mapping | None]] = []
        self._base_counts: list[int] = []
        self._base_tables: list[int] = []
        self._all_shadows: tuple[ShadowMap[Any, Any] | ShadowWords, ...] = ()
        self._calls: Final = scene.calls
        self._work: Final = scene.hypervisor.host.work
        self._stores = self._work.stores
        self._words_written: Final = scene.machine.memory.written
        # The hypervisor's own arrays, which stay the same objects: each is compared in one go with what it was. Their
        # elements are tuples, which are replaced when they change: so pointers are compared.
        self._live_entries: Final[list[list[Grant | None]]] = [domain.grants for domain in self.domains]
        self._live_handles: Final[list[list[Mapping | None]]] = [domain.handles for domain in self.domains]

    # Base state.

    def attach(self) -> None:
        """Read everything reachable from the machine as it is now; this is the base."""
        scene = self.scene
        memory = scene.machine.memory
        frames = memory.frames
        watched = memory.watched
        words = scene.words
        first = scene.frame_words
        for hfn in range(first >> 9, (first + frames - 1 >> 9) + 1):
            watched[hfn] = 1
        self.frames = ShadowWords(words[first : first + frames].tolist())
        states = memory.data[first * 8 + 1 : (first + frames) * 8 : 8].tobytes()
        self.state_counts = [0] * 256
        for state in sorted(set(states)):
            self.state_counts[state] = states.count(state)
        self.table_counts = [0] * len(self.domains)
        for domain in self.domains:
            self.roots[domain.id] = domain.stage2.root >> PAGE_SHIFT
            self.roots[domain.id | DMA] = domain.dma.root >> PAGE_SHIFT
        for space, root in self.roots.items():
            self._link_all(root, Table(space, DMA_LEVELS if space & DMA else EPT_LEVELS, 0))
        self._find_contexts()
        for hfn in self.root_frames:
            watched[hfn] = 1
        self._read_contexts()
        for domain in self.domains:
            none: list[None] = [None] * len(domain.grants)
            self.grants.append(list(none))
            self.handles.append([None] * len(domain.handles))
            self._read_grants(domain.id)
        memory.written.clear()
        self.change = Change()
        self._stores = self._work.stores
        self._base_counts = list(self.state_counts)
        self._base_tables = list(self.table_counts)
        self._base_entries = list(self.grants)
        self._base_handles = list(self.handles)
        self._all_shadows = self._shadows()
        for shadow in self._all_shadows:
            shadow.rebase()

    def reset(self) -> None:
        """The machine is back at its snapshot: so is the shadow."""
        for shadow in self._all_shadows:
            shadow.reset()
        self.state_counts = list(self._base_counts)
        self.table_counts = list(self._base_tables)
        self.grants = list(self._base_entries)
        self.handles = list(self._base_handles)
        self.refilled.clear()
        self.change = Change()
        self._stores = self._work.stores
        self._words_written.clear()

    def _shadows(self) -> tuple[ShadowMap[Any, Any] | ShadowWords, ...]:
        return (
            self.entries,
            self.tables,
            self.populations,
            self.leaves,
            self.large,
            self.contexts,
            self.sides,
            self.frames,
        )

    # Following.

    def update(self) -> Change | None:
        """Follow what was written since the last update; None if that was nothing of interest."""
        written, calls = self._words_written, self._calls
        changed = (written or self.refilled) and self._follow(written)
        if calls.applied or self.stored:
            calls.applied = False
            self._stores = self._work.stores
            if self._live_entries != self.grants or self._live_handles != self.handles:
                changed = True
                for number in range(len(self.domains)):
                    self._read_grants(number)
        if not changed:
            return None
        change = self.change
        self.change = Change()
        if change.unlinked:
            # A leaf can come and go with its table within one update.
            change.added = [leaf for leaf in change.added if self.leaf(leaf.word) == leaf]
        return change

    @property
    def stored(self) -> bool:
        """Whether an array of the hypervisor's, such as a table of grants, was written since the last update."""
        return self._work.stores != self._stores

    def _follow(self, written: list[int]) -> bool:
        """Look at the written words; whether any is different from what it was."""
        words = self.scene.words
        first = self.scene.frame_words
        old_frames = self.frames.values
        noted = self.frames.changed
        last = first + len(old_frames)
        changed = self.change
        counts = self.state_counts
        tables = self.tables
        contexts = False
        entries: list[tuple[int, int]] = []
        many = len(written)
        if many >= LARGE_FRAMES:
            self._follow_blocks(written)
        frames = changed.scattered
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
            elif word >> 9 in self.root_frames:
                contexts = True
        if changed.blocks:
            changed.frames.update(frames)
        if entries:
            self._look_at_entries(entries)
        if self.refilled:
            self._look_at_refilled()
        if contexts:
            self._read_contexts()
        return bool(
            changed.frames
            or changed.added
            or changed.removed
            or changed.tables
            or changed.contexts
            or changed.misplaced
        )

    def _follow_blocks(self, written: list[int]) -> None:
        """Take from `written` the pages of frame words that were written as a whole, and look at each in one go.

        A page of the frame table holds the words of 512 frames: those of a large leaf, where the table is aligned.
        """
        words = self.scene.words
        first = self.scene.frame_words
        values = self.frames.values
        change = self.change
        rest: list[int] = []
        at = 0
        while at < len(written):
            hpa = written[at]
            start = (hpa >> 3) - first
            if (
                hpa & PAGE_MASK
                or not 0 <= start <= len(values) - LARGE_FRAMES
                or start & LARGE_FRAMES - 1
                or written[at : at + WORDS_PER_PAGE] != list(range(hpa, hpa + PAGE_SIZE, 8))
            ):
                rest.append(hpa)
                at += 1
                continue
            at += WORDS_PER_PAGE
            block = slice(start, start + LARGE_FRAMES)
            old, new = values[block], words[hpa >> 3 : (hpa >> 3) + WORDS_PER_PAGE].tolist()
            if old == new:
                continue
            if old.count(old[0]) != LARGE_FRAMES or new.count(new[0]) != LARGE_FRAMES:
                rest.extend(range(hpa, hpa + PAGE_SIZE, 8))
                continue
            if not change.blocks:
                change.scattered = {}
            change.blocks[start >> 9] = (old[0], new[0])
            change.frames.update(dict.fromkeys(range(block.start, block.stop), old[0]))
            values[block] = new
            self.frames.changed.append(block)
            self.state_counts[old[0] >> 8 & 0xFF] -= LARGE_FRAMES
            self.state_counts[new[0] >> 8 & 0xFF] += LARGE_FRAMES
        written[:] = rest

    # Devices.

    def _find_contexts(self) -> None:
        """The frames that hold root and context entries."""
        machine = self.scene.machine
        root = machine.iommu.root_table
        self.root_frames[root >> PAGE_SHIFT] = 0
        for device in machine.devices:
            low = self.scene.words[(root >> 3) + (device.bdf >> 8) * 2]
            if low & legacy_mode.PRESENT and (low & ADDRESS) < machine.memory.size:
                self.root_frames[(low & ADDRESS) >> PAGE_SHIFT] = 0

    def _read_contexts(self) -> None:
        """Read the context entry of every device."""
        machine = self.scene.machine
        words = self.scene.words
        root = machine.iommu.root_table
        for device in machine.devices:
            bdf = device.bdf
            now: Context | None = None
            low = words[(root >> 3) + (bdf >> 8) * 2]
            if low & legacy_mode.PRESENT and (low & ADDRESS) < machine.memory.size:
                index = ((low & ADDRESS) >> 3) + (bdf & 0xFF) * 2
                low, high = words[index], words[index + 1]
                if low & legacy_mode.PRESENT:
                    now = context_of(low, high)
            if now != self.contexts.get(bdf):
                self.change.contexts.append(bdf)
                if now is None:
                    self.contexts.drop(bdf)
                else:
                    self.contexts.put(bdf, now)

    def device_domain(self, bdf: int) -> int:
        """The domain whose table the device's context entry names, -1 if that is nobody's or there is none."""
        context = self.contexts.get(bdf)
        if context is not None:
            root = context[0] >> PAGE_SHIFT
            for domain in self.domains:
                if self.roots[domain.id | DMA] == root:
                    return domain.id
        return -1

    # Grants.

    def _read_grants(self, number: int) -> None:
        """Find what changed in the grant and handle tables of a domain."""
        change = self.change
        domain = self.domains[number]
        if domain.grants != self.grants[number]:
            entries = list(domain.grants)
            for ref, old, new in differences(self.grants[number], entries):
                change.entries.append((number, ref, old, new))
            self.grants[number] = entries
        if domain.handles != self.handles[number]:
            handles = list(domain.handles)
            for handle, before, after in differences(self.handles[number], handles):
                change.handles.append((number, handle, before, after))
                self._place(number, before, after)
            self.handles[number] = handles

    def _place(self, number: int, before: Mapping | None, after: Mapping | None) -> None:
        """Keep `sides` in step with one handle."""
        sides = self.sides
        if before is not None:
            for key in sides_of(number, before):
                left = list(sides.get(key, ()))
                if before in left:
                    left.remove(before)
                if left:
                    sides.put(key, tuple(left))
                else:
                    sides.drop(key)
        if after is not None:
            for key in sides_of(number, after):
                sides.put(key, (*sides.get(key, ()), after))
