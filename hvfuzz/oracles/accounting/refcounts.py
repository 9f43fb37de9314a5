"""Counts leaves, live grant entries and live grant mappings, and compares the counts in the frame words with them.

Helper of the oracle `recount`, which says what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import FOREIGN
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT
from hvfuzz.oracles.shadow.changes import ADDRESS, LARGE_LEVEL
from hvfuzz.oracles.shadow.rewindable import ShadowMap

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Grant, Mapping
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.changes import Change
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

OWNED: Final = int(FrameState.OWNED)
SHARED: Final = int(FrameState.SHARED)
UNUSED: Final = (0, 0)
"""(host, device) counts of an entry without live sides."""


class RefCounts:
    """Counts the grant entries and mappings of one machine. `report`(rule, message) is that of the oracle."""

    __slots__ = ("_grants", "_pins", "_report", "_scene", "_shadow", "used")

    def __init__(self, scene: Scene, shadow: PageTableShadow, report: Callable[[str, str], None]) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._report: Final = report
        self._pins: Final[ShadowMap[int, int]] = ShadowMap()
        self._grants: Final[ShadowMap[int, int]] = ShadowMap()
        self.used: Final[ShadowMap[tuple[int, int], tuple[int, int]]] = ShadowMap()
        """(granter, ref) -> number of live host and device sides."""

    def attach(self) -> None:
        """Count all grant entries and mappings: this is the base."""
        shadow = self._shadow
        for number, (grants, handles) in enumerate(zip(shadow.grants, shadow.handles, strict=True)):
            for entry in grants:
                self.count_entry(None, entry)
            for mapping in handles:
                self.count_mapping(number, None, mapping)
        for counted in (self._pins, self._grants, self.used):
            counted.rebase()

    def reset(self) -> None:
        """Return to the base."""
        self._pins.reset()
        self._grants.reset()
        self.used.reset()

    # Counting.

    def count_entry(self, old: Grant | None, new: Grant | None) -> None:
        """Note that a grant entry changed from `old` to `new`."""
        grants = self._grants
        if old is not None:
            grants.put(old.frame, grants.get(old.frame, 0) - 1)
        if new is not None:
            grants.put(new.frame, grants.get(new.frame, 0) + 1)

    def count_mapping(self, number: int, before: Mapping | None, after: Mapping | None) -> None:
        """Note that a mapping of a domain changed from `before` to `after`."""
        pins, used = self._pins, self.used
        for mapping, sign in ((before, -1), (after, 1)):
            if mapping is not None:
                host, device = sign * bool(mapping.host), sign * bool(mapping.device)
                pins.put(mapping.frame, pins.get(mapping.frame, 0) + host + device)
                key = (mapping.granter, mapping.ref)
                hosts, devices = used.get(key, UNUSED)
                used.put(key, (hosts + host, devices + device))

    # Comparing.

    def add_frames(self, frames: dict[int, Any], change: Change) -> None:
        """Add to `frames` those whose counts may be wrong after the change; skip blocks that are correct as a whole."""
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

    def _alike(self, block: int) -> bool:
        """Whether the 512 frames of the block have the same word, and it is correct for all of them."""
        shadow = self._shadow
        frames = range(block << 9, (block + 1) << 9)
        words = shadow.frames.values[frames.start : frames.stop]
        if words.count(words[0]) != LARGE_FRAMES or words[0] >> 16 != len(shadow.large.get(block, ())):
            return False
        # Without small leaves and grants, the counts of all frames are equal.
        return words[0] & 0xFF00 != SHARED << 8 and self._unnamed(frames)

    def _unnamed(self, frames: range) -> bool:
        """Whether no small leaf, grant entry or mapping names any of the frames."""
        for counted in (self._shadow.leaves, self._pins, self._grants):
            if len(counted) < len(frames):
                if any(hfn in frames for hfn in counted):
                    return False
            elif not counted.keys().isdisjoint(frames):
                return False
        return True

    def check_frames(self, frames: Iterable[int]) -> None:
        """Compare the counts of many frames."""
        shadow = self._shadow
        values = shadow.frames.values
        count = len(values)
        leaves, large = shadow.leaves, shadow.large
        pins, grants = self._pins, self._grants
        for hfn in frames:
            if hfn < count:
                word = values[hfn]
                maps = len(leaves.get(hfn, ())) + (len(large[hfn >> 9]) if hfn >> 9 in large else 0)
                # Nearly always a frame is mapped at most once, and not shared.
                if maps > 1 or word >> 16 != maps or pins.get(hfn) or grants.get(hfn) or word & 0xFF00 == SHARED << 8:
                    self.check_frame(hfn)

    def check_frame(self, hfn: int) -> None:
        """Compare the counts in a frame's word."""
        word = self._shadow.frames.values[hfn]
        maps = len(self._shadow.leaves.get(hfn, ())) + len(self._shadow.large.get(hfn >> 9, ()))
        pins = self._pins.get(hfn, 0)
        grants = self._grants.get(hfn, 0)
        counts = maps | pins << 16 | grants << 32
        state = word >> 8 & 0xFF
        if word >> 16 != counts:
            where = self._scene.describe(hfn)
            if word >> 16 & 0xFFFF != maps:
                self._report("maps", f"{where} is named by {maps} leaves")
            if word >> 32 & 0xFFFF != pins:
                self._report("pins", f"{where} has {pins} live sides of grant mappings")
            if word >> 48 != grants:
                self._report("grants", f"{where} is named by {grants} grant entries")
        elif (state == SHARED and not word >> 32) or (state == OWNED and word >> 32):
            self._report("state", f"{self._scene.describe(hfn)} has a state that contradicts its pins and grants")
        if (pins or maps > 1) and (foreign := self._foreign(hfn)) != pins:
            text = f"{foreign} leaves of grant mappings and {pins} live sides of grant mappings"
            self._report("pins", f"{self._scene.describe(hfn)} has {text}")

    def _foreign(self, hfn: int) -> int:
        """Number of leaves of grant mappings that name the frame."""
        entries = self._shadow.entries
        return len([word for word in self._shadow.leaves.get(hfn, ()) if entries[word] & FOREIGN])

    def audit(self) -> None:
        """Compare the counts of every frame."""
        self.check_frames(dict.fromkeys(self._suspects()))

    def _suspects(self) -> list[int]:
        """Hfns of frames that are mapped more than once, pinned or granted, or whose word is not the expected one."""
        shadow = self._shadow
        values = shadow.frames.values
        leaves = shadow.leaves
        # Shared, pinned or granted frames, and those named by several small leaves, are always compared.
        suspects = {hfn for hfn, words in leaves.items() if len(words) > 1}
        suspects.update(self._pins, self._grants)
        for first in range(0, len(values), LARGE_FRAMES):
            words = values[first : first + LARGE_FRAMES]
            large = len(shadow.large.get(first >> 9, ()))
            # The words that are correct for a frame without small leaf, and with one.
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
