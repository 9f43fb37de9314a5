"""Reference counts: every count that the hypervisor keeps is recounted.

Leaves are counted in the bytes of the tables, grant entries and mappings in the hypervisor's tables. The counts that
must agree are in the frame words, in the grant entries, in the pools and in the allocator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.status import Status
from hvfuzz.oracles.accounting.pool_checks import PoolChecks
from hvfuzz.oracles.accounting.refcounts import UNUSED, RefCounts
from hvfuzz.oracles.accounting.table_demand import frames_needed, payer, tables_needed
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import DMA, name_of, sides_of
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Mapping
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.shadow.changes import Change

NO_POOL = int(Status.NO_POOL)


class Recount(Oracle):
    """Every count equals the number of what it counts."""

    name = "recount"
    shadowed = True
    rules: ClassVar[Rules] = {
        "maps": "a frame's maps count the leaves, of stage 2 and of devices, that name it",
        "pins": "a frame's pins count the live sides of its grant mappings, and equal the grant leaves that name it",
        "uncounted": "a leaf is counted, and pinned if it is a grant's, before it is there, and until it is gone",
        "grants": "a frame's grants count the live grant entries that name it",
        "state": "a frame is SHARED if and only if it is pinned or granted",
        "entry": "a grant entry's pins count the live sides of the mappings made from it",
        "handle": "a live grant mapping belongs to a live grant entry for its domain, and its sides are mapped",
        "pool": "table pages in use and in the pool add up to those of the domain at boot, each page once",
        "need": "a call refused with NO_POOL needs more table pages than the pool has, or one that it was denied",
        "denied": "a call that succeeds has taken no memory that it was denied",
        "size": "a populated block is mapped by one large leaf, and so is a block that is protected with equal rights",
        "empty": "a linked table page has an entry, or is a root",
        "free": "the allocator's free frames are the frames in state FREE, and had no counts left when they were freed",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._shortage: Final = scene.machine.shortage
        self._counts = RefCounts(scene, shadow, self.report)
        self._pools = PoolChecks(scene, shadow, self.report)

    def attach(self) -> None:
        """Count everything: this is the base."""
        self._counts.attach()
        self._pools.attach()

    def reset(self) -> None:
        """Return to the base."""
        self._counts.reset()
        self._pools.reset()

    def shadow_changed(self, change: Change) -> None:
        """Recount what this change concerns."""
        frames: dict[int, Any] = {}
        """An ordered set of hfns; the values mean nothing."""
        entries: dict[tuple[int, int], None] = {}
        for number, _, before, after in change.handles:
            self._counts.count_mapping(number, before, after)
            for mapping in (before, after):
                if mapping is not None:
                    frames[mapping.frame] = None
                    entries[mapping.granter, mapping.ref] = None
        for number, ref, old, new in change.entries:
            self._counts.count_entry(old, new)
            entries[number, ref] = None
            for entry in (old, new):
                if entry is not None:
                    frames[entry.frame] = None
        self._counts.add_frames(frames, change)
        self._counts.check_frames(frames)
        if change.frames:
            self._pools.check_free(change)
        for number, ref in entries:
            self._check_entry(number, ref)
        for number, _, _, after in change.handles:
            if after is not None:
                self.check_mapping(number, after)
        for number, ref, old, new in change.entries:
            if new is None and old is not None and self._counts.used.get((number, ref), UNUSED) != UNUSED:
                self._check_mappings_of(number, ref)
        for hfn in change.emptied:
            self._pools.check_table(hfn)
        if change.removed:
            self._check_removed(change)
        if change.added:
            self._pools.check_sizes(change.added)
        pools = self._pools
        if change.tables or pools.live != pools.known:
            for number, pool in enumerate(pools.live):
                if change.tables or pool != pools.known[number]:
                    pools.check_pool(number, pool)

    def _check_entry(self, number: int, ref: int) -> None:
        grants = self.shadow.grants
        if not (0 <= number < len(grants) and 0 <= ref < len(grants[number])):
            return  # A mapping without an entry: `check_mapping` reports it.
        entry = grants[number][ref]
        used = self._counts.used.get((number, ref), UNUSED)
        pins = UNUSED if entry is None else (entry.host_pins, entry.device_pins)
        if pins != used:
            self.report("entry", f"grant {ref} of dom{number} has {pins} host and device pins, and {used} live sides")

    def check_mapping(self, number: int, mapping: Mapping) -> None:
        """A live grant mapping must have a grant entry, and leaves at its pages."""
        shadow = self.shadow
        granter, ref, frame = mapping.granter, mapping.ref, mapping.frame
        known = 0 <= granter < len(shadow.grants) and 0 <= ref < len(shadow.grants[granter])
        entry = shadow.grants[granter][ref] if known else None
        if entry is None or entry.to != number or entry.frame != frame:
            self.report("handle", f"dom{number} maps grant {ref} of dom{granter}, whose entry is {entry}")
        for space, page in sides_of(number, mapping):
            leaf = shadow.find(space, page)
            if leaf is None or leaf.frame != frame or leaf.level != 1:
                where = f"dom{number} maps grant {ref} of dom{granter} at {name_of(space)}, page {page:#x}"
                self.report("handle", f"{where}, where the leaf is {leaf}")

    def _check_mappings_of(self, number: int, ref: int) -> None:
        """Check the live mappings of a grant entry that was removed: there must be none."""
        for domain, handles in enumerate(self.shadow.handles):
            for mapping in handles:
                if mapping is not None and mapping.granter == number and mapping.ref == ref:
                    self.check_mapping(domain, mapping)

    def _check_removed(self, change: Change) -> None:
        """Check the live mappings at the pages of removed leaves: there must be none."""
        sides = self.shadow.sides
        for space, level, page, _ in change.removed:
            if level == 1:
                for mapping in sides.get((space, page), ()):
                    self.check_mapping(space & ~DMA, mapping)

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """Check what a call took, and a refusal with NO_POOL, which leaves the tables as the call found them."""
        call = self.scene.calls.current
        if not status and (denied := call.denied(self._shortage)) >= 0:
            taken = call.tables + (len(call.fresh) >> getattr(args, "order", 0))
            if taken > denied:
                text = f"{declaration.name} takes {taken} pieces of memory, and was denied number {denied}"
                self.report("denied", f"dom{vcpu.domain}: {text}")
        if status == NO_POOL and args is not None:
            number = vcpu.domain
            paying = payer(number, declaration.name, args)
            if paying >= len(self._pools.live):
                return  # There is no such domain: the specification judges the status.
            free = len(self._pools.live[paying])
            needed = tables_needed(self.shadow, number, declaration.name, args, call.reads)
            denied = call.denied(self._shortage) - frames_needed(declaration.name, args)
            if needed <= free and not 0 <= denied < needed:
                text = f"which needs {needed} of the {free} table pages in dom{paying}'s pool"
                self.report("need", f"dom{number} is refused {declaration.name}, {text}")

    def audit(self) -> None:
        """Recount all frames, entries, mappings and pools."""
        shadow = self.shadow
        self._counts.audit()
        for hfn in sorted(shadow.tables.keys() - shadow.populations.keys()):
            self._pools.check_table(hfn)
        for number, domain in enumerate(shadow.domains):
            used = {ref for granter, ref in self._counts.used if granter == number}
            for ref, entry in enumerate(shadow.grants[number]):
                if entry is not None or ref in used:
                    self._check_entry(number, ref)
            for mapping in shadow.handles[number]:
                if mapping is not None:
                    self.check_mapping(number, mapping)
            self._pools.known[number] = []
            self._pools.check_pool(number, domain.pool)
        self._pools.audit_free()
