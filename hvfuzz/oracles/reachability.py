"""The shadow: everything that domains and devices can reach, read from the bytes of the tables that hardware walks.

    EPT root of each domain, IOMMU table of each domain  -> tables -> entries -> leaves -> frames
    root table register -> context entries               -> which table each device uses
    frame table                                          -> owner, state and counts of each frame

From the hypervisor come the addresses of the roots, once, and its grant and handle tables; none of its code runs here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine import vtd
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.oracles.change import ADDRESS, DMA, DMA_LEVELS, EPT_LEVELS, NOBODY, Change, Table, differences, sides_of
from hvfuzz.oracles.shadow import ShadowMap, ShadowWords
from hvfuzz.oracles.trees import Trees

if TYPE_CHECKING:
    from hvfuzz.hypervisor.domains import Grant, Mapping
    from hvfuzz.oracles.oracle import Scene


class Reachability(Trees):
    """The shadow of one machine. `attach` reads everything; from then on `update` follows, and `reset` goes back."""

    __slots__ = (
        "_base_counts",
        "_base_entries",
        "_base_handles",
        "_base_tables",
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
        self.contexts: Final[ShadowMap[int, tuple[int, int]]] = ShadowMap()
        """Device (bdf) -> (root of its table, domain id), from its present context entry."""
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
        self.state_counts = [0] * 256
        for word in self.frames.values:
            self.state_counts[word >> 8 & 0xFF] += 1
        self.table_counts = [0] * len(self.domains)
        for domain in self.domains:
            self.roots[domain.id] = domain.stage2.root >> PAGE_SHIFT
            self.roots[domain.id | DMA] = domain.dma.root >> PAGE_SHIFT
        for space, root in self.roots.items():
            self._link(root, Table(space, DMA_LEVELS if space & DMA else EPT_LEVELS, 0), root=True)
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
        self._base_counts = list(self.state_counts)
        self._base_tables = list(self.table_counts)
        self._base_entries = list(self.grants)
        self._base_handles = list(self.handles)
        for shadow in self._shadows():
            shadow.rebase()

    def reset(self) -> None:
        """The machine is back at its snapshot: so is the shadow."""
        for shadow in self._shadows():
            shadow.reset()
        self.state_counts = list(self._base_counts)
        self.table_counts = list(self._base_tables)
        self.grants = list(self._base_entries)
        self.handles = list(self._base_handles)
        self._refilled.clear()
        self.change = Change()
        self.scene.machine.memory.written.clear()

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

    def update(self, caller: int = NOBODY) -> Change | None:
        """Follow what was written since the last update; None if that was nothing of interest.

        `caller` is the domain whose call is over. Where no step was applied, only its grants are compared with
        what they were; those of others, which only a step changes, the audit compares.
        """
        written = self.scene.machine.memory.written
        changed = False
        if written or self._refilled:
            changed = self._follow(written)
        # Tuples that are replaced when they change: comparing lists of them is comparing pointers.
        calls = self.scene.calls
        if calls.applied:
            calls.applied = False
            for number, domain in enumerate(self.domains):
                if domain.grants != self.grants[number] or domain.handles != self.handles[number]:
                    changed = True
                    self._read_grants(number)
        elif caller >= 0:
            domain = self.domains[caller]
            if domain.grants != self.grants[caller] or domain.handles != self.handles[caller]:
                changed = True
                self._read_grants(caller)
        if not changed:
            return None
        change = self.change
        self.change = Change()
        if change.tables:
            # A leaf can come and go with its table within one update.
            change.added = [leaf for leaf in change.added if self.leaf(leaf.word) == leaf]
        return change

    def _follow(self, written: list[int]) -> bool:
        """Look at the written words; whether any is different from what it was."""
        words = self.scene.words
        first = self.scene.frame_words
        old_frames = self.frames.values
        base_frames = self.frames.base
        last = first + len(old_frames)
        changed = self.change
        frames = changed.frames
        counts = self.state_counts
        tables = self.tables
        contexts = False
        entries: list[tuple[int, int]] = []
        seen = dict.fromkeys(written)
        written.clear()
        for hpa in seen:
            word = hpa >> 3
            if first <= word < last:
                new = words[word]
                hfn = word - first
                old = old_frames[hfn]
                if new != old:
                    if hfn not in frames:
                        frames[hfn] = old
                    if hfn not in base_frames:
                        base_frames[hfn] = old
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
        if entries:
            self._look_at_entries(entries)
        if self._refilled:
            self._look_at_refilled()
        if contexts:
            self._read_contexts()
        return bool(
            frames or changed.added or changed.removed or changed.tables or changed.contexts or changed.misplaced
        )

    # Devices.

    def _find_contexts(self) -> None:
        """The frames that hold root and context entries."""
        machine = self.scene.machine
        root = machine.iommu.root_table
        self.root_frames[root >> PAGE_SHIFT] = 0
        for device in machine.devices:
            low = self.scene.words[(root >> 3) + (device.bdf >> 8) * 2]
            if low & vtd.PRESENT and (low & ADDRESS) < machine.memory.size:
                self.root_frames[(low & ADDRESS) >> PAGE_SHIFT] = 0

    def _read_contexts(self) -> None:
        """Read the context entry of every device."""
        machine = self.scene.machine
        words = self.scene.words
        root = machine.iommu.root_table
        for device in machine.devices:
            bdf = device.bdf
            now: tuple[int, int] | None = None
            low = words[(root >> 3) + (bdf >> 8) * 2]
            if low & vtd.PRESENT and (low & ADDRESS) < machine.memory.size:
                index = ((low & ADDRESS) >> 3) + (bdf & 0xFF) * 2
                low, high = words[index], words[index + 1]
                if low & vtd.PRESENT:
                    now = (low & ADDRESS, high >> vtd.DID_SHIFT & vtd.DID_MASK)
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
