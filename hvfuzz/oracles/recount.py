"""Reference counts: what the hypervisor counts is recounted from what there is to count.

Leaves come from the tables' bytes, grant entries and mappings from the hypervisor's tables; the counts they must
agree with are in the frame words, in the grant entries, in the pools and in the allocator.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.frames import FREE_WORD, FrameState
from hvfuzz.hypervisor.tables import FOREIGN
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT
from hvfuzz.oracles.change import ADDRESS, DMA, LARGE_LEVEL, name_of, sides_of
from hvfuzz.oracles.needs import tables_needed
from hvfuzz.oracles.oracle import Oracle, Rules, Scene
from hvfuzz.oracles.reachability import Reachability
from hvfuzz.oracles.shadow import ShadowMap

if TYPE_CHECKING:
    from hvfuzz.hypervisor.domains import Grant, Mapping
    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.oracles.change import Change, Leaf

NO_POOL = int(Status.NO_POOL)
FREE = int(FrameState.FREE)
OWNED = int(FrameState.OWNED)
SHARED = int(FrameState.SHARED)
POOL = int(FrameState.POOL)
UNUSED = (0, 0)
WHOLE = (1 << LARGE_FRAMES) - 1
"""A block of which each frame is free, in the allocator's bit map."""


class Recount(Oracle):
    """Every count is the number of the things that it counts."""

    name = "recount"
    shadowed = True
    rules: ClassVar[Rules] = {
        "maps": "a frame's maps are the leaves, of stage 2 and of devices, that name it",
        "pins": "a frame's pins are the live sides of grant mappings of it, and the leaves that grants made",
        "grants": "a frame's grants are the live grant entries that name it",
        "state": "a frame is SHARED if and only if it is pinned or granted",
        "entry": "a grant entry's pins are the live sides of the mappings made from it",
        "handle": "a live grant mapping comes from a live entry for its domain, and its sides are mapped",
        "pool": "table pages in use and in the pool add up to what the domain was given, each page once",
        "need": "a call that is refused for want of table pages needs more of them than the pool has",
        "size": "what is populated as a block is one large leaf, and so is a block of alike pages that is protected",
        "empty": "a table page that is linked has an entry, or is a root",
        "free": "the allocator's free frames are the frames in state FREE",
    }

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        super().__init__(scene, shadow)
        self._pins: ShadowMap[int, int] = ShadowMap()
        self._grants: ShadowMap[int, int] = ShadowMap()
        self._used: ShadowMap[tuple[int, int], tuple[int, int]] = ShadowMap()
        """(granter, ref) -> live host and device sides."""
        self._pages: list[int] = []
        """Table pages of each domain, in the pool or in use."""
        self._pools: list[list[int]] = []
        self._base_pools: list[list[int]] = []
        self._live_pools = [domain.pool for domain in shadow.domains]
        """The hypervisor's own lists, which stay the same objects."""

    def attach(self) -> None:
        """Count what there is."""
        shadow = self.shadow
        for number, (grants, handles) in enumerate(zip(shadow.grants, shadow.handles, strict=True)):
            for entry in grants:
                self._count_entry(None, entry)
            for mapping in handles:
                self._count_mapping(number, None, mapping)
        self._pages = [
            len(domain.pool) + used for domain, used in zip(shadow.domains, shadow.table_counts, strict=True)
        ]
        self._base_pools = self._pools = [list(domain.pool) for domain in shadow.domains]
        for counted in (self._pins, self._grants, self._used):
            counted.rebase()

    def reset(self) -> None:
        """Return to the counts at the snapshot."""
        self._pins.reset()
        self._grants.reset()
        self._used.reset()
        self._pools = list(self._base_pools)

    def settled(self, change: Change) -> None:
        """Recount what this change concerns."""
        frames: dict[int, Any] = {}
        """In order, each once; the values are of no use."""
        entries: dict[tuple[int, int], None] = {}
        for number, _, before, after in change.handles:
            self._count_mapping(number, before, after)
            for mapping in (before, after):
                if mapping is not None:
                    frames[mapping.frame] = None
                    entries[mapping.granter, mapping.ref] = None
        for number, ref, old, new in change.entries:
            self._count_entry(old, new)
            entries[number, ref] = None
            for entry in (old, new):
                if entry is not None:
                    frames[entry.frame] = None
        self._add_frames(frames, change)
        self._check_frames(frames)
        if change.frames:
            self._check_free(change)
        for number, ref in entries:
            self._check_entry(number, ref)
        for number, _, _, after in change.handles:
            if after is not None:
                self.check_mapping(number, after)
        for number, ref, old, new in change.entries:
            if new is None and old is not None and self._used.get((number, ref), UNUSED) != UNUSED:
                self._check_mappings_of(number, ref)
        for hfn in change.emptied:
            self.check_table(hfn)
        if change.removed:
            self._check_removed(change)
        if change.added:
            self._check_sizes(change.added)
        if change.tables or self._live_pools != self._pools:
            for number, pool in enumerate(self._live_pools):
                if change.tables or pool != self._pools[number]:
                    self.check_pool(number, pool)

    def _add_frames(self, frames: dict[int, Any], change: Change) -> None:
        """The frames whose counts the change may have made wrong, but for blocks that are right as a whole."""
        if not (change.added or change.removed or change.blocks):
            frames.update(change.frames)
            return
        leaves = [(leaf.level, leaf.frame) for leaf in change.added]
        leaves += [(level, (entry & ADDRESS) >> PAGE_SHIFT) for _, level, _, entry in change.removed]
        alike = {block for block in change.blocks if self._alike(block)}
        for level, frame in leaves:
            if level == 1:
                frames[frame] = None
            elif level == LARGE_LEVEL and (frame >> 9 in alike or self._alike(frame >> 9)):
                alike.add(frame >> 9)
            else:
                frames.update(dict.fromkeys(range(frame, frame + (1 << 9 * (level - 1)))))
        if alike:
            changed = change.scattered if change.blocks.keys() <= alike else change.frames
            frames.update(dict.fromkeys([hfn for hfn in changed if hfn >> 9 not in alike]))
        else:
            frames.update(change.frames)

    # What there is.

    def _count_entry(self, old: Grant | None, new: Grant | None) -> None:
        grants = self._grants
        if old is not None:
            grants.put(old.frame, grants.get(old.frame, 0) - 1)
        if new is not None:
            grants.put(new.frame, grants.get(new.frame, 0) + 1)

    def _count_mapping(self, number: int, before: Mapping | None, after: Mapping | None) -> None:
        pins, used = self._pins, self._used
        for mapping, sign in ((before, -1), (after, 1)):
            if mapping is not None:
                host, device = sign * bool(mapping.host), sign * bool(mapping.device)
                pins.put(mapping.frame, pins.get(mapping.frame, 0) + host + device)
                key = (mapping.granter, mapping.ref)
                hosts, devices = used.get(key, UNUSED)
                used.put(key, (hosts + host, devices + device))

    # The comparison.

    def _alike(self, block: int) -> bool:
        """Whether the 512 frames from `block << 9` on have one and the same word, which is right for all of them."""
        shadow = self.shadow
        frames = range(block << 9, (block + 1) << 9)
        words = shadow.frames.values[frames.start : frames.stop]
        if words.count(words[0]) != LARGE_FRAMES or words[0] >> 16 != len(shadow.large.get(block, ())):
            return False
        # Neither small leaves nor grants: what is left to count is the same for each.
        return words[0] & 0xFF00 != SHARED << 8 and self._unnamed(frames)

    def _unnamed(self, frames: range) -> bool:
        """Whether no small leaf, grant entry or mapping names any of the frames."""
        for counted in (self.shadow.leaves, self._pins, self._grants):
            if len(counted) < len(frames):
                if any(hfn in frames for hfn in counted):
                    return False
            elif not counted.keys().isdisjoint(frames):
                return False
        return True

    def _check_frames(self, frames: Iterable[int]) -> None:
        """Compare the counts of many frames."""
        shadow = self.shadow
        values = shadow.frames.values
        count = len(values)
        leaves, large = shadow.leaves, shadow.large
        pins, grants = self._pins, self._grants
        for hfn in frames:
            if hfn < count:
                word = values[hfn]
                maps = len(leaves.get(hfn, ())) + (len(large[hfn >> 9]) if hfn >> 9 in large else 0)
                # Nearly always: mapped once or not at all, and never shared.
                if maps > 1 or word >> 16 != maps or pins.get(hfn) or grants.get(hfn) or word & 0xFF00 == SHARED << 8:
                    self.check_frame(hfn)

    def check_frame(self, hfn: int) -> None:
        """Compare the counts in a frame's word."""
        word = self.shadow.frames.values[hfn]
        maps = len(self.shadow.leaves.get(hfn, ())) + len(self.shadow.large.get(hfn >> 9, ()))
        pins = self._pins.get(hfn, 0)
        grants = self._grants.get(hfn, 0)
        counts = maps | pins << 16 | grants << 32
        state = word >> 8 & 0xFF
        if word >> 16 != counts:
            where = self.scene.describe(hfn)
            if word >> 16 & 0xFFFF != maps:
                self.report("maps", f"{where}: {maps} leaves name it")
            if word >> 32 & 0xFFFF != pins:
                self.report("pins", f"{where}: {pins} sides of grant mappings are live")
            if word >> 48 != grants:
                self.report("grants", f"{where}: {grants} grant entries name it")
        elif (state == SHARED and not word >> 32) or (state == OWNED and word >> 32):
            self.report("state", self.scene.describe(hfn))
        if (pins or maps > 1) and (foreign := self._foreign(hfn)) != pins:
            text = f"{foreign} leaves that a grant made name it, {pins} sides of grant mappings are live"
            self.report("pins", f"{self.scene.describe(hfn)}: {text}")

    def _foreign(self, hfn: int) -> int:
        """The number of leaves, made by a grant, that name the frame."""
        entries = self.shadow.entries
        return len([word for word in self.shadow.leaves.get(hfn, ()) if entries[word] & FOREIGN])

    def _check_entry(self, number: int, ref: int) -> None:
        grants = self.shadow.grants
        if not (0 <= number < len(grants) and 0 <= ref < len(grants[number])):
            return  # A mapping of no entry at all: that is what `check_mapping` reports.
        entry = grants[number][ref]
        used = self._used.get((number, ref), UNUSED)
        pins = UNUSED if entry is None else (entry.host_pins, entry.device_pins)
        if pins != used:
            self.report("entry", f"grant {ref} of dom{number}: {pins} host and device pins, {used} live sides")

    def check_mapping(self, number: int, mapping: Mapping) -> None:
        """A live grant mapping must stand on an entry, and be mapped."""
        shadow = self.shadow
        granter, ref, frame = mapping.granter, mapping.ref, mapping.frame
        known = 0 <= granter < len(shadow.grants) and 0 <= ref < len(shadow.grants[granter])
        entry = shadow.grants[granter][ref] if known else None
        if entry is None or entry.to != number or entry.frame != frame:
            self.report("handle", f"a mapping by dom{number} of grant {ref} of dom{granter}: the entry is {entry}")
        for space, page in sides_of(number, mapping):
            leaf = shadow.find(space, page)
            if leaf is None or leaf.frame != frame or leaf.level != 1:
                where = f"a mapping by dom{number} of grant {ref} of dom{granter}"
                self.report("handle", f"{where}: {name_of(space)}, page {page:#x}: the leaf is {leaf}")

    def _check_mappings_of(self, number: int, ref: int) -> None:
        """A grant entry is gone: no live mapping may come from it."""
        for domain, handles in enumerate(self.shadow.handles):
            for mapping in handles:
                if mapping is not None and mapping.granter == number and mapping.ref == ref:
                    self.check_mapping(domain, mapping)

    def check_table(self, hfn: int) -> None:
        """A table without entries belongs in the pool."""
        table = self.shadow.tables.get(hfn)
        if table is not None and hfn not in self.shadow.populations and self.shadow.roots[table.space] != hfn:
            where = f"{name_of(table.space)}: level {table.level} table for page {table.page:#x}"
            self.report("empty", f"{where} is linked and has no entry")

    def _check_removed(self, change: Change) -> None:
        """A leaf is gone: no live mapping may still claim its place."""
        sides = self.shadow.sides
        for space, level, page, _ in change.removed:
            if level == 1:
                for mapping in sides.get((space, page), ()):
                    self.check_mapping(space & ~DMA, mapping)

    def _check_sizes(self, added: list[Leaf]) -> None:
        """A table of small leaves is spent where the contract says that a large leaf takes its place."""
        call = self.scene.calls.current
        if call.declaration is None or call.args is None:
            return
        if call.declaration.name == "memory.populate" and call.args.order:
            if any(leaf.level != LARGE_LEVEL for leaf in added):
                self.report("size", f"a block is mapped by {len(added)} leaves")
        elif call.declaration.name == "memory.protect":
            for space, block in {(leaf.space, leaf.page >> 9): None for leaf in added if leaf.level == 1}:
                if self._could_be_large(space, block << 9):
                    where = f"{name_of(space)}, page {block << 9:#x}"
                    self.report("size", f"{where}: 512 small leaves, all alike, of 512 frames in a row")

    def _could_be_large(self, space: int, page: int) -> bool:
        """Whether the table of small leaves for the 512 pages says what one large leaf would."""
        first = self.shadow.find(space, page)
        if first is None or first.level != 1 or first.foreign or first.frame % LARGE_FRAMES:
            return False
        entries = self.shadow.entries
        entry = entries[first.word]
        return all(entries.get(first.word + at) == entry + (at << PAGE_SHIFT) for at in reversed(range(LARGE_FRAMES)))

    def check_pool(self, number: int, pool: list[int]) -> None:
        """The pages of a pool: as many as there have to be, and each of them free to use."""
        used = self.shadow.table_counts[number]
        if len(pool) + used != self._pages[number]:
            text = f"{len(pool)} pages in the pool, {used} in use as tables, {self._pages[number]} given"
            self.report("pool", f"dom{number}: {text}")
        if pool == self._pools[number]:
            return
        self._pools[number] = list(pool)
        if len(set(pool)) != len(pool):
            self.report("pool", f"dom{number}: a page is twice in the pool")
        values = self.shadow.frames.values
        if pool and min(pool) >= 0 and max(pool) < len(values):
            # Nearly always all the words are one and the same.
            words = set(map(values.__getitem__, pool))
            if all(word & 0xFFFF == POOL << 8 | number for word in words):
                return
        for hfn in pool:
            if not 0 <= hfn < len(values) or values[hfn] & 0xFFFF != POOL << 8 | number:
                self.report("pool", f"dom{number}: in the pool is {self.scene.describe(hfn)}")

    def _check_free(self, change: Change) -> None:
        """The allocator's bit maps against the states of the frames that changed."""
        allocator = self.scene.hypervisor.allocator
        values = self.shadow.frames.values
        blocks = allocator.blocks
        scattered = change.scattered
        for block, (old, new) in change.blocks.items():
            if (old ^ new) & 0xFF00 and blocks[block] != (0 if new & 0xFF00 else WHOLE):
                scattered = change.frames
        for hfn, old in scattered.items():
            new = values[hfn]
            if (old ^ new) & 0xFF00 and (blocks[hfn >> 9] >> (hfn & 511) & 1) != (not new & 0xFF00):
                text = "free" if new & 0xFF00 else "in use"
                self.report("free", f"{text} for the allocator: {self.scene.describe(hfn)}")
        if allocator.available != self.shadow.state_counts[FREE]:
            text = f"{allocator.available} frames for the allocator, {self.shadow.state_counts[FREE]} by their state"
            self.report("free", text)

    # Everything.

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """Nothing changed, if it was refused: the tables are as the call found them."""
        if status == NO_POOL and args is not None:
            number = vcpu.domain
            free = len(self._live_pools[number])
            needed = tables_needed(self.shadow, number, declaration.name, args, self.scene.calls.current.reads)
            if needed <= free:
                self.report("need", f"dom{number} is refused, which needs {needed} table pages and has {free}")

    def audit(self) -> None:
        """Recount every frame, entry, mapping and pool."""
        shadow = self.shadow
        self._check_frames(dict.fromkeys(self._suspects()))
        for hfn in sorted(shadow.tables.keys() - shadow.populations.keys()):
            self.check_table(hfn)
        for number, domain in enumerate(shadow.domains):
            used = {ref for granter, ref in self._used if granter == number}
            for ref, entry in enumerate(shadow.grants[number]):
                if entry is not None or ref in used:
                    self._check_entry(number, ref)
            for mapping in shadow.handles[number]:
                if mapping is not None:
                    self.check_mapping(number, mapping)
            self._pools[number] = []
            self.check_pool(number, domain.pool)
        for number, bits in enumerate(self.scene.hypervisor.allocator.blocks):
            first = number << 9
            words = shadow.frames.values[first : first + LARGE_FRAMES]
            free = (1 << len(words)) - 1
            if words.count(FREE_WORD) != len(words):
                digits = {word: "0" if word & 0xFF00 else "1" for word in set(words)}
                free = int("".join([digits[word] for word in reversed(words)]), 2)
            if free != bits:
                self.report("free", f"frames {first:#x} to {first + 511:#x}: allocator and states differ")

    def _suspects(self) -> list[int]:
        """The frames whose words do not have just the maps of their leaves, or have what asks for a closer look."""
        shadow = self.shadow
        values = shadow.frames.values
        leaves = shadow.leaves
        # A frame that is shared, pinned or granted, or named by several small leaves, is looked at anyhow.
        suspects = {hfn for hfn, words in leaves.items() if len(words) > 1}
        suspects.update(self._pins, self._grants)
        for first in range(0, len(values), LARGE_FRAMES):
            words = values[first : first + LARGE_FRAMES]
            large = len(shadow.large.get(first >> 9, ()))
            # The words that are right for a frame with no small leaf, and with one.
            different = set(words)
            none = {word for word in different if word >> 16 == large and word & 0xFF00 != SHARED << 8}
            one = {word for word in different if word >> 16 == large + 1 and word & 0xFF00 != SHARED << 8}
            if large > 1:
                suspects.update(range(first, first + len(words)))
            elif len(none) < len(different) or not leaves.keys().isdisjoint(range(first, first + len(words))):
                for hfn, word in enumerate(words, first):
                    named = hfn in leaves
                    if word not in (one if named else none) or (large and named):
                        suspects.add(hfn)
        return sorted(suspects)
