"""The shadow: everything that domains and devices can reach, read from the bytes of the tables that hardware walks.

    EPT root of each domain, IOMMU table of each domain  -> tables -> entries -> leaves -> frames
    root table register -> context entries               -> which table each device uses
    frame table                                          -> owner, state and counts of each frame

The shadow knows what each table word was when it last looked, so that `update` costs what was written since: memory
reports the words written in watched frames, and every table that becomes reachable is watched from then on. From
the hypervisor come the addresses of the roots, once, and its grant and handle tables; none of its code runs here.

A "space" is what a tree of tables translates for: the domain's number for its EPT, that plus DMA for its devices.
"""

from __future__ import annotations

from operator import is_not
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from hvfuzz.hypervisor.tables import FOREIGN
from hvfuzz.machine import ept, vtd
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, PHYSICAL_RESERVED, WORDS_PER_PAGE
from hvfuzz.machine.memory import ZERO_PAGE
from hvfuzz.oracles.shadow import ShadowMap, ShadowWords

if TYPE_CHECKING:
    from hvfuzz.hypervisor.domains import Grant, Mapping
    from hvfuzz.oracles.oracle import Scene

T = TypeVar("T")

NOBODY: Final = -1
"""In place of a domain: no call is over."""
PART: Final = 256
ZERO_PART: Final = bytes(PART)
_PART: Final = Struct(f"<{PART // 8}Q")
DMA: Final = 0x100
"""Added to a domain's number: the space of its devices."""
EPT_LEVELS: Final = 4
DMA_LEVELS: Final = 3
LARGE_LEVEL: Final = 2
LARGE: Final = ept.LARGE
ADDRESS: Final = ept.ADDRESS | PHYSICAL_RESERVED
"""All address bits, those beyond MAXPHYADDR too: a table that names such an address is wrong, not absent."""
OWNER_AND_STATE: Final = 0xFFFF
"""The part of a frame word that says whose the frame is, and what for."""
EPT_RIGHTS: Final = 7
DMA_RIGHTS: Final = 3


class Table(NamedTuple):
    """A table page: the space it translates for, its level, and the first page number that it covers."""

    space: int
    level: int
    page: int


class Leaf(NamedTuple):
    """A leaf entry: where the word is, and what it says."""

    word: int
    space: int
    level: int
    page: int
    frame: int
    rights: int
    foreign: bool

    @property
    def frames(self) -> int:
        """4 KiB frames that it maps."""
        return 1 << 9 * (self.level - 1)


class Removed(NamedTuple):
    """A leaf that is gone, or names another frame now, or has less rights than it had."""

    space: int
    level: int
    page: int
    entry: int


class Change:
    """What changed between two updates; the oracles look at this, and no further."""

    __slots__ = ("added", "contexts", "entries", "frames", "handles", "linked", "misplaced", "removed", "tables")

    def __init__(self) -> None:
        self.frames: dict[int, int] = {}
        """Hfn -> its frame word before, where that changed."""
        self.added: list[Leaf] = []
        """Leaves that are there now, and were not, or were other ones."""
        self.removed: list[Removed] = []
        self.linked: list[int] = []
        """Hfns of tables that are reachable now, and were not."""
        self.misplaced: list[tuple[Table, int, str]] = []
        """(table, hfn that an entry of it names as a table, what is wrong with that)"""
        self.contexts: list[int] = []
        """Devices (by bdf) with another context entry than before."""
        self.entries: list[tuple[int, int, Grant | None, Grant | None]] = []
        """(domain, ref, old, new) of changed grant entries."""
        self.handles: list[tuple[int, int, Mapping | None, Mapping | None]] = []
        """(domain, handle, old, new) of changed grant mappings."""
        self.tables = False
        """Some table became reachable, or unreachable."""


class Reachability:
    """The shadow of one machine. `attach` reads everything; from then on `update` follows, and `reset` goes back."""

    __slots__ = (
        "_base_counts",
        "_base_entries",
        "_base_handles",
        "_base_tables",
        "_change",
        "_refilled",
        "_written",
        "contexts",
        "domains",
        "entries",
        "frames",
        "grants",
        "handles",
        "large",
        "leaves",
        "populations",
        "root_frames",
        "roots",
        "scene",
        "sides",
        "state_counts",
        "table_counts",
        "tables",
    )

    def __init__(self, scene: Scene) -> None:
        self.scene: Final = scene
        self.domains: Final = list.copy(scene.hypervisor.domains)
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
        self.contexts: Final[ShadowMap[int, tuple[int, int]]] = ShadowMap()
        """Device (bdf) -> (root of its table, domain id), from its present context entry."""
        self.sides: Final[ShadowMap[tuple[int, int], tuple[Mapping, ...]]] = ShadowMap()
        """(space, page) -> the live grant mappings that have a side there."""
        self.frames: ShadowWords = ShadowWords([])
        """Frame words."""
        self.state_counts: list[int] = []
        """Number of frames in each state."""
        self.table_counts: list[int] = []
        """Number of reachable tables of each domain, but for roots."""
        self.grants: list[list[Grant | None]] = []
        self.handles: list[list[Mapping | None]] = []
        self._base_entries: list[list[Grant | None]] = []
        self._base_handles: list[list[Mapping | None]] = []
        self._base_counts: list[int] = []
        self._base_tables: list[int] = []
        self.roots: Final[dict[int, int]] = {}
        """Space -> hfn of its root table."""
        self.root_frames: Final[dict[int, int]] = {}
        """Hfn of a root or context table of the IOMMU -> 0."""
        self._refilled: dict[int, int] = {}
        self._written: dict[int, list[int]] = {}
        """Hfn of a table -> words of it written since the last update."""
        self._change = Change()

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
        self._change = Change()
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
        self._change = Change()
        self.scene.machine.memory.written.clear()

    def _shadows(self) -> tuple[ShadowMap[int, int] | ShadowWords, ...]:
        return (  # type: ignore[return-value]
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

    def page_written(self, hfn: int) -> None:
        """The host is about to write the whole frame: look at it once, later, and not at 512 reported words."""
        if hfn in self.tables:
            self.scene.machine.memory.watched[hfn] = 0
            self._refilled[hfn] = 0

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """For suites without the oracle that looks at each access of the host."""
        if size == PAGE_SIZE and write:
            self.page_written(hpa >> PAGE_SHIFT)

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
        change = self._change
        self._change = Change()
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
        changed = self._change
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

    def _look_at_entries(self, entries: list[tuple[int, int]]) -> None:
        """Compare table words, given as (-level of the table, word).

        A page can leave one place and turn up in another between two updates, and be filled with something else
        in the meantime. So what is unlinked goes first, from the top: what is in an unlinked page is no entry.
        """
        self._written = {}
        if len(entries) > 1:
            entries.sort()
            for _, word in entries:
                self._written.setdefault(word >> 9, []).append(word)
            for level, word in entries:
                table = self.tables.get(word >> 9)
                if table is not None and level < -1:
                    old = self.entries.get(word, 0)
                    if old and old != self.scene.words[word] and is_link(old, table.level):
                        page = table.page + ((word & WORDS_PER_PAGE - 1) << 9 * (table.level - 1))
                        self._unlink((old & ADDRESS) >> PAGE_SHIFT, Table(table.space, table.level - 1, page))
        for _, word in entries:
            table = self.tables.get(word >> 9)
            if table is not None:
                self._entry(word, table)

    def _look_at_refilled(self) -> None:
        """Compare the tables that were written as a whole, as far as they are still tables."""
        refilled = list(self._refilled)
        self._refilled.clear()
        for hfn in refilled:
            table = self.tables.get(hfn)
            if table is None:
                continue
            self.scene.machine.memory.watched[hfn] = 1
            for word in range(hfn << 9, (hfn + 1) << 9):
                self._entry(word, table)

    # Tables.

    def _entry(self, word: int, table: Table) -> None:
        """Take note of a table word as it is now."""
        space, level, first = table
        entry: int = self.scene.words[word]
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

    def _add_entry(self, word: int, table: Table, page: int, entry: int) -> None:
        """An entry is there that was not, or was another one."""
        level = table.level
        if word not in self.entries:
            self.populations.put(word >> 9, self.populations.get(word >> 9, 0) + 1)
        self.entries.put(word, entry)
        frame = (entry & ADDRESS) >> PAGE_SHIFT
        if is_link(entry, level):
            self._link(frame, Table(table.space, level - 1, page))
            return
        rights = entry & (DMA_RIGHTS if table.space & DMA else EPT_RIGHTS)
        foreign = entry & FOREIGN != 0
        self._change.added.append(Leaf(word, table.space, level, page, frame, rights, foreign))
        if level == 1:
            self.leaves.put(frame, (*self.leaves.get(frame, ()), word))
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
            self._change.removed.append(Removed(table.space, level, page, old))

    def _link(self, hfn: int, table: Table, root: bool = False) -> None:
        """The frame is a table that can be reached, with all that is in it."""
        memory = self.scene.machine.memory
        if hfn >= memory.frames:
            self._change.misplaced.append((table, hfn, "no memory is there"))
            return
        if hfn in self.tables or hfn in self.root_frames:
            # Only the first link is followed: the tree stays a tree.
            self._change.misplaced.append((table, hfn, f"it is a table already: {self.tables.get(hfn)}"))
            return
        self.tables.put(hfn, table)
        memory.watched[hfn] = 1
        self._change.linked.append(hfn)
        if not root:
            self._change.tables = True
            self.table_counts[table.space & ~DMA] += 1
        page = memory.read(hfn << PAGE_SHIFT, PAGE_SIZE)
        if page == ZERO_PAGE:
            return
        rights = DMA_RIGHTS if table.space & DMA else EPT_RIGHTS
        shift = 9 * (table.level - 1)
        first = hfn << 9
        for start in range(0, PAGE_SIZE, PART):
            # Most tables are nearly empty.
            if page[start : start + PART] == ZERO_PART:
                continue
            index = start >> 3
            for entry in _PART.unpack_from(page, start):
                if entry & rights:
                    self._add_entry(first + index, table, table.page + (index << shift), entry)
                index += 1

    def _unlink(self, hfn: int, table: Table) -> None:
        """The frame is that table no more; what was below it cannot be reached through it either."""
        if self.tables.get(hfn) != table:
            return
        self.scene.machine.memory.watched[hfn] = 0
        self._change.tables = True
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
                self._change.contexts.append(bdf)
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
        change = self._change
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
        return Leaf(word, space, level, page, (entry & ADDRESS) >> PAGE_SHIFT, rights, bool(entry & FOREIGN))

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

    def maps(self, hfn: int) -> int:
        """The number of leaves that map the frame."""
        return len(self.leaves.get(hfn, ())) + len(self.large.get(hfn >> 9, ()))

    def leaves_of(self, hfn: int) -> tuple[int, ...]:
        """The words of the leaves that map the frame."""
        return self.leaves.get(hfn, ()) + self.large.get(hfn >> 9, ())


def is_link(entry: int, level: int) -> bool:
    """Whether a present entry of a table of this level names a further table."""
    return level > 1 and (not entry & LARGE or level == EPT_LEVELS)


def differences(old: list[T], new: list[T]) -> list[tuple[int, T, T]]:
    """(index, old, new) of the elements that differ, of two lists of one length."""
    found = []
    # Unequal elements are different objects: that is found in C.
    different = bytes(map(is_not, old, new))
    index = different.find(1)
    while index >= 0:
        if old[index] != new[index]:
            found.append((index, old[index], new[index]))
        index = different.find(1, index + 1)
    return found


def sides_of(domain: int, mapping: Mapping) -> list[tuple[int, int]]:
    """(space, page) of each side of a domain's grant mapping."""
    sides = []
    if mapping.host:
        sides.append((domain, mapping.gfn))
    if mapping.device:
        sides.append((domain | DMA, mapping.iova >> PAGE_SHIFT))
    return sides


def name_of(space: int) -> str:
    """A space in words, for messages."""
    return f"the devices of dom{space & ~DMA}" if space & DMA else f"dom{space}"


def _forget(index: ShadowMap[int, tuple[int, ...]], key: int, word: int) -> None:
    """Take one word out of a reverse index."""
    left = tuple(other for other in index.get(key, ()) if other != word)
    if left:
        index.put(key, left)
    else:
        index.drop(key)


__all__ = ["DMA", "Change", "Leaf", "Reachability", "Removed", "Table", "name_of", "sides_of"]
