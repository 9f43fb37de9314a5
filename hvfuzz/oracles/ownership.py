"""Isolation: what a domain or its devices can reach is its own, or was granted to it, and nothing else is.

Two views of the same law. Each leaf of the tables is checked when it appears, and again when the frame it names
changes its owner or its use, or the grant that it stands on goes. And each access is checked in the act, against
the frame table: that one also sees an escape through a translation that no table holds any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Final

from hvfuzz.abi.boot import DEVICES, MMIO_BASE, MMIO_SIZE
from hvfuzz.hypervisor.frames import FrameState
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, WRITE
from hvfuzz.machine.cpu import VCpu
from hvfuzz.machine.devices.windows import REGISTERS_BASE, device_at
from hvfuzz.machine.ept import eptp_of
from hvfuzz.machine.vmcs import ExitReason
from hvfuzz.machine.vtd import context_entry
from hvfuzz.oracles.calls import NOBODY
from hvfuzz.oracles.change import (
    ADDRESS,
    DMA,
    DMA_LEVELS,
    OWNER_AND_STATE,
    Leaf,
    context_of,
    malformation,
    name_of,
    sides_of,
)
from hvfuzz.oracles.emulation import is_shutdown
from hvfuzz.oracles.oracle import Oracle, Rules, Scene
from hvfuzz.oracles.reachability import Reachability
from hvfuzz.oracles.trees import LEAF_BITS

if TYPE_CHECKING:
    from hvfuzz.hypervisor.domains import Mapping
    from hvfuzz.oracles.change import Change, Table

TABLE: Final = FrameState.TABLE << 8
OWNED: Final = FrameState.OWNED << 8
RESERVED: Final = FrameState.RESERVED << 8
SHARED: Final = FrameState.SHARED << 8
_eptp = attrgetter("eptp")
OWNED_OR_SHARED: Final = (OWNED, SHARED)
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
PINS: Final = 4
"""Where, in a grant entry, the pins begin; the rest says what is granted, to whom."""
MMIO_WINDOW: Final = range(MMIO_BASE, MMIO_BASE + DEVICES * MMIO_SIZE)
RULE_OF_STATE: Final[dict[int, str]] = {
    FrameState.FREE: "free",
    FrameState.HYPERVISOR: "hypervisor",
    FrameState.TABLE: "table",
    FrameState.OWNED: "foreign",
    FrameState.SHARED: "foreign",
    FrameState.POOL: "pool",
    FrameState.RESERVED: "reserved",
}


def is_owned(word: int) -> bool:
    """Whether a frame with this word is a domain's, shared or not."""
    return word & 0xFF00 in OWNED_OR_SHARED


class Ownership(Oracle):
    """Every frame within reach of a domain is its own, or granted to it with these rights."""

    name = "ownership"
    shadowed = True
    rules: ClassVar[Rules] = {
        "free": "no leaf names a frame that is free",
        "hypervisor": "no leaf names a frame of the hypervisor's own",
        "table": "no leaf names a page of the tables that hardware walks",
        "pool": "no leaf names a page of a paging pool",
        "foreign": "no leaf names another domain's frame, but for one that is granted at that place",
        "rights": "a leaf that a grant made gives no right that the grant does not give",
        "reserved": "memory kept for a device is mapped at its own address for its domain, and nowhere else",
        "registers": "no leaf names the registers of a device, but for a device page of the domain that has the device",
        "nowhere": "no leaf names memory that does not exist",
        "tree": "a table page is linked once, and is a page that is in use as a table of that domain",
        "entry": "an entry that names a table gives every right, a leaf is write-back, and neither has reserved bits",
        "pointer": "each vCPU runs on its domain's tables: four levels, write-back, no accessed and dirty flags",
        "context": "a context entry has requests translated by the device table of one domain, with its number",
        "access": "no guest or device touches a frame that its domain may not touch in that way",
        "initiator": "in an exit of one domain, no other domain's device is set to work",
        "mmio": "no guest reaches the registers of a device that is not its domain's",
        "copy": "the hypervisor copies, on behalf of a domain, only from and to frames that the domain may touch",
    }

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        super().__init__(scene, shadow)
        self._calls = scene.calls
        self._size = scene.calls.size
        self._kinds = scene.calls.kinds
        self._own = scene.calls.own
        self._vcpus = scene.machine.vcpus
        self._reserved = [
            (scene.machine.devices[device].bdf, base >> PAGE_SHIFT, pages)
            for device, base, pages in scene.world.reserved
        ]
        """(bdf, first page, pages) of each region that firmware keeps."""
        self._pointers: list[int] = []
        """The EPT pointer of each vCPU, as it should always be."""

    def attach(self) -> None:
        """Learn the roots of the trees."""
        self._pointers = [eptp_of(self.shadow.roots[vcpu.domain] << PAGE_SHIFT) for vcpu in self._vcpus]

    # The tables.

    def settled(self, change: Change) -> None:
        """Check the leaves, tables and contexts that this change concerns."""
        # Most changes are small, and of one kind: each kind is looked for before anything is made ready for it.
        if change.added:
            self._check_leaves(change.added)
        if change.frames:
            self._check_users(change)
        if change.tables or change.misplaced:
            for hfn in change.linked:
                self.check_table(hfn)
            for table, hfn, why in change.misplaced:
                self._report_misplaced(table, hfn, why)
        for number, _, mapping, _ in change.handles:
            if mapping is not None:
                self._check_sides(number, mapping)
        for number, ref, old_entry, entry in change.entries:
            if old_entry is not None and (entry is None or entry[:PINS] != old_entry[:PINS]):
                self._check_granted(number, ref)
        for bdf in change.contexts:
            self.check_context(bdf)
        if change.contexts:
            self._check_registers()
        if self._reserved and (change.contexts or change.removed or change.added):
            self._check_reserved()
        for word in change.malformed:
            self.check_entry(word)
        if list(map(_eptp, self._vcpus)) != self._pointers:
            self._check_pointers()

    def _check_users(self, change: Change) -> None:
        """Check who maps the frames that have another owner or use now."""
        shadow = self.shadow
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
                    # As for the first of them, so for each.
                    if place not in checked:
                        self._check_place(place, every.start)
        for hfn, old in frames.items():
            new = values[hfn]
            # As `is_owned`, without its calls.
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

    def _check_leaves(self, leaves: Iterable[Leaf]) -> None:
        """Check leaves, few or many."""
        values = self.shadow.frames.values
        count = len(values)
        for leaf in leaves:
            # Nearly always: a frame of the domain's own.
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
            words = self.shadow.frames.values[frame : frame + leaf.frames]
            if len(words) == leaf.frames:
                own = self._own[owner]
                # Nearly always all the words are one and the same.
                if words[0] & OWNER_AND_STATE in own and words.count(words[0]) == len(words):
                    return
                if {word & OWNER_AND_STATE for word in words} <= {*own}:
                    return
        for hfn in range(frame, frame + leaf.frames):
            if self._check_reach(leaf, hfn):
                return

    def _check_reach(self, leaf: Leaf, hfn: int) -> bool:
        """Check one frame of a leaf; whether something is wrong."""
        scene = self.scene
        if hfn >= scene.machine.memory.frames:
            if device_at(scene.machine, hfn << PAGE_SHIFT) is not None:
                if leaf.space & DMA and self._has_registers(leaf.space & ~DMA, hfn):
                    return False
                text = f"the registers of device {hfn - (REGISTERS_BASE >> PAGE_SHIFT)}"
                self.report("registers", f"{name_of(leaf.space)}, page {leaf.page:#x}: {text}")
                return True
            self.report("nowhere", f"{name_of(leaf.space)}, page {leaf.page:#x}: no memory at frame {hfn:#x}")
            return True
        word = self.shadow.frames.values[hfn]
        kind = word & 0xFF00
        if kind in OWNED_OR_SHARED:
            if word & 0xFF == leaf.space & 0xFF:
                return False
            rights = self._granted(leaf, hfn, word & 0xFF)
            if rights is not None:
                if leaf.rights & ~rights:
                    text = f"rights {leaf.rights} where the grant gives {rights}"
                    self.report("rights", f"{name_of(leaf.space)}, page {leaf.page:#x}: {text}")
                    return True
                return False
        if leaf.space & DMA and leaf.page == hfn and self._keeps(leaf.space & ~DMA, hfn):
            return False
        rule = RULE_OF_STATE.get(kind >> 8, "free")
        self.report(rule, f"{name_of(leaf.space)} reach {scene.describe(hfn)} at page {leaf.page:#x}")
        return True

    def _granted(self, leaf: Leaf, hfn: int, owner: int) -> int | None:
        """The rights that a live grant of `owner` gives at the place of this leaf; None if there is none."""
        if leaf.level != 1:
            return None
        for mapping in self.shadow.sides.get((leaf.space, leaf.page), ()):
            if mapping.frame == hfn and mapping.granter == owner:
                entry = self._entry(mapping)
                if entry is not None and entry[0] == leaf.space & ~DMA and entry[1] == hfn:
                    return mapping.rights & entry[2]
        return None

    def _entry(self, mapping: Mapping) -> tuple[int, int, int] | None:
        """(grantee, frame, rights) of the live entry that a mapping was made from."""
        grants = self.shadow.grants
        if not (0 <= mapping.granter < len(grants) and 0 <= mapping.ref < len(grants[mapping.granter])):
            return None
        entry = grants[mapping.granter][mapping.ref]
        return None if entry is None else (entry.to, entry.frame, entry.rights)

    def _check_place(self, word: int, hfn: int) -> None:
        """The frame has another owner or use: check a leaf that maps it."""
        leaf = self.shadow.leaf(word)
        if leaf is not None:
            self._check_reach(leaf, hfn)

    def _check_sides(self, number: int, mapping: Mapping) -> None:
        """A grant mapping changed: check what is mapped at the places it had."""
        for space, page in sides_of(number, mapping):
            leaf = self.shadow.find(space, page)
            if leaf is not None:
                self.check_leaf(leaf)

    def _check_granted(self, number: int, ref: int) -> None:
        """A grant entry in use changed: check the mappings made from it."""
        for domain, handles in enumerate(self.shadow.handles):
            for mapping in handles:
                if mapping is not None and mapping.granter == number and mapping.ref == ref:
                    self._check_sides(domain, mapping)

    def check_table(self, hfn: int) -> None:
        """A page in the place of a table must be one, and the domain's."""
        table = self.shadow.tables.get(hfn)
        if table is None:
            return
        word = self.shadow.frames.values[hfn]
        if word & OWNER_AND_STATE != TABLE | table.space & 0xFF:
            text = f"{name_of(table.space)}: level {table.level} table for page {table.page:#x} is"
            self.report("tree", f"{text} {self.scene.describe(hfn)}")

    def _report_misplaced(self, table: Table, hfn: int, why: str) -> None:
        text = f"{name_of(table.space)}: frame {hfn:#x} as level {table.level} table for page {table.page:#x}"
        self.report("tree", f"{text}: {why}")

    def check_entry(self, word: int) -> None:
        """The bits of an entry, whatever it names, must be those that are used in that place."""
        entry = self.shadow.entries.get(word)
        table = self.shadow.tables.get(word >> 9)
        if entry is None or table is None:
            return  # gone again, with its table
        wrong = malformation(table.space, table.level, entry)
        if wrong:
            where = f"{name_of(table.space)}: level {table.level} table for page {table.page:#x}"
            self.report("entry", f"{where}: {wrong}: {entry:#x}")

    def _check_pointers(self) -> None:
        """The EPT pointer of each vCPU must be its domain's."""
        for vcpu, pointer in zip(self._vcpus, self._pointers, strict=True):
            if vcpu.eptp != pointer:
                who = f"vCPU {vcpu.index} of dom{vcpu.domain}"
                self.report("pointer", f"{who}: {vcpu.eptp:#x} where its domain's pointer is {pointer:#x}")

    def _keeps(self, number: int, hfn: int) -> bool:
        """Whether firmware keeps the frame for a device that the domain has, and the frame table knows."""
        return self.scene.frame_word(hfn) & 0xFF00 == RESERVED and any(
            first <= hfn < first + pages and self.shadow.device_domain(bdf) == number
            for bdf, first, pages in self._reserved
        )

    def _has_registers(self, number: int, hfn: int) -> bool:
        """Whether there are, in place of a frame, the registers of a device that the domain has."""
        device = device_at(self.scene.machine, hfn << PAGE_SHIFT)
        return device is not None and self.shadow.device_domain(device.bdf) == number

    def _check_registers(self) -> None:
        """A device has another owner: check who reaches its registers."""
        for number in range(len(self.scene.machine.devices)):
            for place in self.shadow.leaves.get((REGISTERS_BASE >> PAGE_SHIFT) + number, ()):
                self._check_place(place, (REGISTERS_BASE >> PAGE_SHIFT) + number)

    def _check_reserved(self) -> None:
        """What firmware keeps for a device must be mapped for the domain that has the device, and for no other."""
        for bdf, first, pages in self._reserved:
            owner = self.shadow.device_domain(bdf)
            for page in range(first, first + pages):
                for domain in self.shadow.domains:
                    leaf = self.shadow.find(domain.id | DMA, page)
                    kept = leaf is not None and leaf.frame == page and leaf.rights == READ | WRITE
                    if kept != (domain.id == owner) or (leaf is not None and not kept):
                        what = "nothing" if leaf is None else f"frame {leaf.frame:#x}, rights {leaf.rights}"
                        text = f"device {bdf:#06x} of {'nobody' if owner < 0 else f'dom{owner}'}"
                        self.report("reserved", f"{name_of(domain.id | DMA)}, page {page:#x}: {what}; {text}")

    def check_context(self, bdf: int) -> None:
        """The context entry of a device must be a domain's."""
        context = self.shadow.contexts.get(bdf)
        if context is None:
            return
        domain = self.shadow.device_domain(bdf)
        if domain < 0 or context != context_of(*context_entry(domain + 1, context.root, DMA_LEVELS)):
            text = f"table {context.root:#x}, domain id {context.did}, other bits {context.low:#x}, {context.high:#x}"
            self.report("context", f"device {bdf:#06x}: {text}: {'no such table' if domain < 0 else f'dom{domain}'}")

    # The act.

    def reached(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """An access by a device, or to what is not plainly the guest's, is about to be made."""
        if isinstance(initiator, VCpu):
            space = initiator.domain
        else:
            owner = self.shadow.device_domain(initiator.bdf)  # type: ignore[attr-defined]
            exiting = self._calls.exiting
            if owner not in (exiting, NOBODY) and exiting != NOBODY:
                self.report("initiator", f"a device of dom{owner} works in an exit of dom{exiting}")
            space = owner | DMA
        hfn = hpa >> PAGE_SHIFT
        if (hpa & PAGE_MASK) + size > PAGE_SIZE:
            # No guest or device does that, unless something is wrong with it.
            self._accessed(space, hpa + size - 1 >> PAGE_SHIFT, access)
        if hpa < self._size and space >= 0 and self._kinds[hfn] in self._own[space & ~DMA]:
            return
        self._accessed(space, hfn, access)

    def _accessed(self, space: int, hfn: int, access: int) -> None:
        """Check one frame that is accessed."""
        if space < 0:
            self.report("access", f"a device of nobody accesses {self.scene.describe(hfn)}")
        elif not self._owns(space & 0xFF, hfn) and not self._may(space, hfn, access):
            if space & DMA and (self._keeps(space & ~DMA, hfn) or self._has_registers(space & ~DMA, hfn)):
                return
            self.report("access", f"{name_of(space)} access {self.scene.describe(hfn)}")

    def _owns(self, number: int, hfn: int) -> bool:
        word = self.scene.frame_word(hfn)
        return word & 0xFF == number and is_owned(word)

    def _may(self, space: int, hfn: int, access: int) -> bool:
        """Whether a grant mapping on that side allows the access, by the hypervisor's tables of this moment."""
        if not is_owned(self.scene.frame_word(hfn)):
            return False
        number = space & ~DMA
        for mapping in list.__iter__(self.shadow.domains[number].handles):
            if (
                mapping is not None
                and mapping.frame == hfn
                and (mapping.device if space & DMA else mapping.host)
                and not access & ~mapping.rights
            ):
                return True
        return False

    def trap_finished(self, vcpu: VCpu) -> None:
        """An access that stage 2 refused may have been emulated: then the device must be the guest's."""
        vmcs = vcpu.vmcs
        if vmcs.reason is not EPT_VIOLATION or vmcs.gpa not in MMIO_WINDOW:
            return
        # Where it was the end of the vCPU, nothing was emulated.
        if vcpu.pending_fault is None and not is_shutdown(vcpu):
            number = (vmcs.gpa - MMIO_BASE) // MMIO_SIZE
            if self.shadow.device_domain(self.scene.machine.devices[number].bdf) != vcpu.domain:
                self.report("mmio", f"an access by dom{vcpu.domain} to the registers of device {number} is emulated")

    def alien(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """The hypervisor is about to copy on behalf of `vcpu`, and not just within a frame of its domain's own."""
        if (hpa & PAGE_MASK) + size > PAGE_SIZE:
            self._copied(vcpu.domain, hpa + size - 1 >> PAGE_SHIFT, write)
        self._copied(vcpu.domain, hpa >> PAGE_SHIFT, write)

    def _copied(self, number: int, hfn: int, write: bool) -> None:
        """Check one frame that is copied from or to."""
        access = WRITE if write else READ
        if self._owns(number, hfn) or self._may(number, hfn, access) or self._may_copy(number, hfn, access):
            return
        way = "to" if write else "from"
        self.report("copy", f"on behalf of dom{number}, {way} {self.scene.describe(hfn)}")

    def _may_copy(self, number: int, hfn: int, access: int) -> bool:
        """Whether somebody granted the frame to the domain, mapped or not."""
        if not is_owned(self.scene.frame_word(hfn)):
            return False
        for domain in self.shadow.domains:
            for entry in list.__iter__(domain.grants):
                if entry is not None and entry.frame == hfn and entry.to == number and entry.rights & access:
                    return True
        return False

    # Everything.

    def audit(self) -> None:
        """Check every leaf, table and context entry that there is."""
        shadow = self.shadow
        values = shadow.frames.values
        count = len(values)
        tables = shadow.tables
        own = {hfn: self._own[table.space & ~DMA] for hfn, table in tables.items() if table.level == 1}
        formats: dict[tuple[int, int], None] = {}
        for word, entry in sorted(shadow.entries.items()):
            # Nearly always: a frame of the domain's own.
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
        for bdf in sorted(shadow.contexts):
            self.check_context(bdf)
        iommu = self.scene.machine.iommu
        if not iommu.enabled or iommu.root_table >> PAGE_SHIFT not in shadow.root_frames:
            self.report("context", f"the IOMMU is {'on' if iommu.enabled else 'off'}, its root {iommu.root_table:#x}")
        self._check_reserved()
        self._check_pointers()
