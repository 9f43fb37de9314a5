"""Checks single leaves, tables and entries: each leaf names what its domain or its devices may access.

Helper of the oracle `ownership`, which says what to check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, rights_text
from hvfuzz.oracles.isolation.entitlements import OWNED_OR_SHARED, Entitlements, is_owned
from hvfuzz.oracles.scene.device_windows import FIRST_FRAME
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    LEAF_BITS,
    OWNER_AND_STATE,
    Leaf,
    malformation,
    name_of,
    sides_of,
)

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Mapping
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.changes import Change, Table
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

TABLE: Final = FrameState.TABLE << 8
RULE_OF_STATE: Final[dict[int, str]] = {
    FrameState.FREE: "free",
    FrameState.HYPERVISOR: "hypervisor",
    FrameState.TABLE: "table",
    FrameState.OWNED: "foreign",
    FrameState.SHARED: "foreign",
    FrameState.POOL: "pool",
    FrameState.RESERVED: "reserved",
}


class LeafChecks:
    """Checks the leaves, tables and entries of one machine. `report`(rule, message) is that of the oracle."""

    __slots__ = ("_entitlements", "_own", "_report", "_scene", "_shadow")

    def __init__(
        self, scene: Scene, shadow: PageTableShadow, entitlements: Entitlements, report: Callable[[str, str], None]
    ) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._entitlements: Final = entitlements
        self._report: Final = report
        self._own: Final = scene.own_frame

    def check_leaves(self, leaves: Iterable[Leaf]) -> None:
        """Check many leaves."""
        values = self._shadow.frames.values
        count = len(values)
        for leaf in leaves:
            # Nearly always the frame belongs to the domain.
            if leaf.level == 1 and leaf.frame < count:
                word = values[leaf.frame]
                if word & 0xFF == leaf.space & 0xFF and word & 0xFF00 in OWNED_OR_SHARED:
                    continue
            self.check_leaf(leaf)

    def check_leaf(self, leaf: Leaf) -> None:
        """Check one leaf against the frame table and the grants."""
        frame = leaf.frame
        owner = leaf.space & 0xFF
        if leaf.level > 1:
            words = self._shadow.frames.values[frame : frame + leaf.frames]
            if len(words) == leaf.frames:
                own = self._own[owner]
                # Nearly always all the words are equal.
                if words[0] & OWNER_AND_STATE in own and words.count(words[0]) == len(words):
                    return
                if {word & OWNER_AND_STATE for word in words} <= {*own}:
                    return
        for hfn in range(frame, frame + leaf.frames):
            if self._check_reach(leaf, hfn):
                return

    def check_users(self, change: Change) -> None:
        """Check the leaves that map frames with a new owner or state."""
        shadow = self._shadow
        values = shadow.frames.values
        leaves, large, tables = shadow.leaves, shadow.large, shadow.tables
        checked = {leaf.word for leaf in change.added}
        blocks = {leaf.frame >> 9 for leaf in change.added if leaf.level > 1}
        frames = change.scattered
        for block, (old, new) in change.blocks.items():
            if (old ^ new) & OWNER_AND_STATE and ((old ^ new) & 0xFF or not is_owned(old) or not is_owned(new)):
                every = range(block << 9, (block + 1) << 9)
                if not leaves.keys().isdisjoint(every) or any(hfn in every for hfn in tables):
                    frames = change.frames
                    break
                for place in large.get(block, ()):
                    # What holds for the first frame holds for all.
                    if place not in checked:
                        self._check_place(place, every.start)
        for hfn, old in frames.items():
            new = values[hfn]
            # `is_owned`, without its calls.
            if (old ^ new) & OWNER_AND_STATE and (
                (old ^ new) & 0xFF or old & 0xFF00 not in OWNED_OR_SHARED or new & 0xFF00 not in OWNED_OR_SHARED
            ):
                words = leaves.get(hfn, ())
                if hfn >> 9 in blocks and len(large[hfn >> 9]) == 1 and not words:
                    continue
                if hfn >> 9 in large:
                    words += large[hfn >> 9]
                for place in words:
                    if place not in checked:
                        self._check_place(place, hfn)
                if hfn in tables:
                    self.check_table(hfn)

    def _check_reach(self, leaf: Leaf, hfn: int) -> bool:
        """Check one frame of a leaf; return whether a rule is broken."""
        scene = self._scene
        if hfn >= scene.machine.memory.frames:
            if 0 <= hfn - FIRST_FRAME < len(scene.machine.devices):
                if leaf.space & DMA and self._entitlements.has_registers(leaf.space & ~DMA, hfn):
                    return False
                text = f"mapped to the registers of device {hfn - FIRST_FRAME}"
                self._report("registers", f"{name_of(leaf.space)}, page {leaf.page:#x}: {text}")
                return True
            self._report(
                "nowhere", f"{name_of(leaf.space)}, page {leaf.page:#x}: mapped to frame {hfn:#x}, beyond memory"
            )
            return True
        word = self._shadow.frames.values[hfn]
        kind = word & 0xFF00
        if kind in OWNED_OR_SHARED:
            if word & 0xFF == leaf.space & 0xFF:
                return False
            rights = self._entitlements.granted(leaf, hfn, word & 0xFF)
            if rights is not None:
                if leaf.rights & ~rights:
                    text = f"the leaf has rights {rights_text(leaf.rights)}, the grant gives {rights_text(rights)}"
                    self._report("rights", f"{name_of(leaf.space)}, page {leaf.page:#x}: {text}")
                    return True
                return False
        if leaf.space & DMA and leaf.page == hfn and self._entitlements.is_reserved_for(leaf.space & ~DMA, hfn):
            return False
        rule = RULE_OF_STATE.get(kind >> 8, "free")
        self._report(rule, f"{name_of(leaf.space)}, page {leaf.page:#x}: mapped to {scene.describe(hfn)}")
        return True

    def _check_place(self, word: int, hfn: int) -> None:
        """Check the leaf at `word`, which maps a frame with a new owner or state."""
        leaf = self._shadow.leaf(word)
        if leaf is not None:
            self._check_reach(leaf, hfn)

    def check_sides(self, number: int, mapping: Mapping) -> None:
        """Check what is mapped at the pages of a grant mapping that changed."""
        for space, page in sides_of(number, mapping):
            leaf = self._shadow.find(space, page)
            if leaf is not None:
                self.check_leaf(leaf)

    def check_granted(self, number: int, ref: int) -> None:
        """Check the mappings that were made from a grant entry that changed."""
        for domain, handles in enumerate(self._shadow.handles):
            for mapping in handles:
                if mapping is not None and mapping.granter == number and mapping.ref == ref:
                    self.check_sides(domain, mapping)

    def check_registers(self) -> None:
        """Check the leaves that map registers of devices, after a device changed hands."""
        for number in range(len(self._scene.machine.devices)):
            for place in self._shadow.leaves.get(FIRST_FRAME + number, ()):
                self._check_place(place, FIRST_FRAME + number)

    def check_table(self, hfn: int) -> None:
        """A page that is linked as a table must be a table page of the domain."""
        table = self._shadow.tables.get(hfn)
        if table is None:
            return
        word = self._shadow.frames.values[hfn]
        if word & OWNER_AND_STATE != TABLE | table.space & 0xFF:
            where = f"{name_of(table.space)}: level {table.level} table for page {table.page:#x}"
            self._report("tree", f"{where} lies in {self._scene.describe(hfn)}")

    def report_misplaced(self, table: Table, hfn: int, why: str) -> None:
        """Report a page that is linked as a table and cannot be one there."""
        where = f"{name_of(table.space)}: frame {hfn:#x} linked as level {table.level} table for page {table.page:#x}"
        self._report("tree", f"{where}: {why}")

    def check_entry(self, word: int) -> None:
        """The bits of an entry, apart from the address, must be those used at that level."""
        entry = self._shadow.entries.get(word)
        table = self._shadow.tables.get(word >> 9)
        if entry is None or table is None:
            return  # removed again, with its table
        wrong = malformation(table.space, table.level, entry)
        if wrong:
            where = f"{name_of(table.space)}: level {table.level} table for page {table.page:#x}"
            self._report("entry", f"{where}: entry {entry:#x}: {wrong}")

    def audit(self) -> None:
        """Check every leaf and table."""
        shadow = self._shadow
        values = shadow.frames.values
        count = len(values)
        tables = shadow.tables
        own = {hfn: self._own[table.space & ~DMA] for hfn, table in tables.items() if table.level == 1}
        formats: dict[tuple[int, int], None] = {}
        for word, entry in sorted(shadow.entries.items()):
            # Nearly always the frame belongs to the domain.
            if word >> 9 in own:
                bits = (word >> 9, entry & LEAF_BITS)
                if bits not in formats:
                    formats[bits] = None
                    self.check_entry(word)
                frame = (entry & ADDRESS) >> PAGE_SHIFT
                if frame < count and values[frame] & OWNER_AND_STATE in own[word >> 9]:
                    continue
            else:
                self.check_entry(word)
            leaf = shadow.leaf(word)
            if leaf is not None:
                self.check_leaf(leaf)
        for hfn in sorted(shadow.tables):
            self.check_table(hfn)
