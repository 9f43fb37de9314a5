"""Judges what devices could do between two writes of the host, and whether they are quiet when they change hands.

    context   a context entry is absent or that of one domain: halves of two entries are neither (VT-d spec 9.3)
    reserved  while a device can reach a domain's memory, its reserved memory is mapped there (VT-d spec 8.4)
    reset     a device is reset when its requests are blocked, its registers are out of reach of other devices, and what
              is cached of both is flushed; before it goes to a domain, it is reset, and its reserved memory is zero, if
              another domain had it
    remapping translation is never off, and the root table stays

Helper of `host_writes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, READ, WRITE
from hvfuzz.machine.physical_memory import ZERO_PAGE
from hvfuzz.machine.vtd import legacy_mode
from hvfuzz.oracles.isolation.entitlements import OWNED_OR_SHARED, RESERVED
from hvfuzz.oracles.scene.device_windows import FIRST_WINDOW
from hvfuzz.oracles.shadow.changes import ADDRESS, DMA, DMA_LEVELS, Context, Leaf, context_of, name_of

if TYPE_CHECKING:
    from hvfuzz.oracles.host.live_tables import EntryChange, LiveTables
    from hvfuzz.oracles.host.moments import Moments
    from hvfuzz.oracles.host.owed_flushes import OwedFlushes
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

NOBODY: Final = -1
"""Sentinel: no domain."""


class DeviceMoments:
    """The devices of one machine. `report`(rule, message) is that of the oracle `ownership`."""

    __slots__ = (
        "_bdfs",
        "_contexts",
        "_iommu",
        "_leaving",
        "_live",
        "_moments",
        "_owed",
        "_report",
        "_reserved",
        "_scene",
        "_shadow",
    )

    def __init__(
        self,
        scene: Scene,
        shadow: PageTableShadow,
        live: LiveTables,
        owed: OwedFlushes,
        report: Callable[[str, str], None],
    ) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._live: Final = live
        self._owed: Final = owed
        self._report: Final = report
        self._iommu: Final = scene.machine.iommu
        self._bdfs: Final = [device.bdf for device in scene.machine.devices]
        self._reserved: Final = {
            page: self._bdfs[device]
            for device, base, pages in scene.world.reserved
            for page in range(base >> PAGE_SHIFT, (base >> PAGE_SHIFT) + pages)
        }
        """Page of a reserved region -> the device that it is reserved for."""
        self._contexts: dict[int, Context] = {}
        self._leaving: dict[int, bool] = {}
        """Bdf of a device that lost its domain -> whether it was reset since."""

    def start(self) -> None:
        """Learn the context entries. Nothing must have been written since the last update of the shadow."""
        self._contexts = dict(self._shadow.contexts)

    def reset(self) -> None:
        """Forget the context entries, and which devices lost their domain."""
        self._contexts = {}
        self._leaving.clear()

    def domain_of(self, bdf: int) -> int:
        """The domain whose tables the device's context entry names, NOBODY if there is none."""
        context = self._contexts.get(bdf)
        if context is not None:
            for space, root in self._shadow.roots.items():
                if space & DMA and root << PAGE_SHIFT == context.root:
                    return space & ~DMA
        return NOBODY

    def may_reach(self, leaf: Leaf, hfn: int) -> bool:
        """Whether a leaf may name a frame that is not its domain's own: granted, reserved for a device, registers."""
        scene = self._scene
        number = leaf.space & ~DMA
        if hfn >= scene.machine.memory.frames:
            device = hfn - (FIRST_WINDOW >> PAGE_SHIFT)
            return bool(leaf.space & DMA) and 0 <= device < len(self._bdfs) and self._left_to(device, number)
        word = scene.frame_word(hfn)
        if word & 0xFF00 == RESERVED:
            # It is mapped before the device comes, and unmapped after it went.
            bdf = self._reserved.get(hfn)
            return leaf.page == hfn and bdf is not None and self.domain_of(bdf) in (number, NOBODY)
        if word & 0xFF00 not in OWNED_OR_SHARED:
            return False
        domains = self._shadow.domains
        for mapping in list.__iter__(domains[number].handles):
            if mapping is not None and mapping.frame == hfn and mapping.granter == word & 0xFF:
                at = mapping.iova >> PAGE_SHIFT if leaf.space & DMA else mapping.gfn
                if (mapping.device if leaf.space & DMA else mapping.host) and at == leaf.page:
                    return not leaf.rights & ~mapping.rights
        return False

    def _left_to(self, device: int, number: int) -> bool:
        """Whether a domain may have the registers of a device mapped: it has the device, or is losing it."""
        owner = self.domain_of(self._bdfs[device])
        return owner == number or (owner == NOBODY and self._bdfs[device] in self._leaving)

    # Events.

    def look(self, moments: Moments) -> None:
        """Read the context entries, after a write to one of their tables."""
        for bdf in self._bdfs:
            now = self._read(bdf)
            old = self._contexts.get(bdf)
            if now == old:
                continue
            before = self.domain_of(bdf)
            if now is None:
                del self._contexts[bdf]
                self._leaving[bdf] = False
            else:
                self._contexts[bdf] = now
            self._owed.context_changed(bdf, old, now)
            owner = self.domain_of(bdf)
            if owner not in (NOBODY, before):
                self._arrived(bdf, owner)
            moments.judge("context", bdf, self._wrong_context(bdf))
            self._judge_reserved(bdf, moments)
            for hfn in (self._registers(bdf), *(page for page, device in self._reserved.items() if device == bdf)):
                for word in self._live.naming(hfn):
                    moments.judge_entry(word)

    def entry_changed(self, change: EntryChange, moments: Moments) -> None:
        """An entry of a table was written: it may map reserved memory."""
        if self._reserved and change.table.space & DMA:
            devices = [self._reserved[page] for page in change.before | change.after if page in self._reserved]
            for bdf in dict.fromkeys(devices):
                self._judge_reserved(bdf, moments)

    def is_on(self, moments: Moments) -> None:
        """Look whether the IOMMU translates, by the tables at which this oracle looks."""
        iommu = self._iommu
        right = iommu.enabled and iommu.root_table >> PAGE_SHIFT in self._shadow.iommu_frames
        moments.judge("remapping", 0, "" if right else "for a moment translation is off: devices reach all memory")

    def device_reset(self, device: Any) -> None:
        """The host is about to reset a device."""
        bdf: int = device.bdf
        if bdf in self._contexts:
            text = f"device {bdf:#06x} is reset while dom{self.domain_of(bdf)} has it, which can set it up again"
            self._report("quiet", text)
            return
        registers = self._registers(bdf)
        for word in self._live.naming(registers):
            who = name_of(self._live.tables[word >> 9].space)
            self._report(
                "quiet", f"device {bdf:#06x} is reset while {who} can reach its registers, and set it up again"
            )
            break
        self._owed.due_for_frame(registers, f"the registers of device {bdf:#06x} were reset")
        self._owed.due_for_device(bdf, "the device was reset")
        if bdf in self._leaving:
            self._leaving[bdf] = True

    # What is wrong.

    def _registers(self, bdf: int) -> int:
        """The frame number that stands for the registers of a device."""
        return (FIRST_WINDOW >> PAGE_SHIFT) + self._bdfs.index(bdf)

    def _arrived(self, bdf: int, owner: int) -> None:
        """A device came to a domain."""
        was_reset = self._leaving.pop(bdf, None)
        if was_reset is None:
            return  # No domain had it: the content of its reserved memory is the firmware's.
        if not was_reset:
            self._report("quiet", f"device {bdf:#06x} comes to dom{owner} as the last domain left it, without a reset")
        for page, device in self._reserved.items():
            if device == bdf and self._scene.machine.memory.read(page << PAGE_SHIFT, PAGE_SIZE) != ZERO_PAGE:
                text = f"reserved frame {page:#x}: device {bdf:#06x} comes to dom{owner} with what is left in there"
                self._report("quiet", text)
                break

    def _read(self, bdf: int) -> Context | None:
        """The context entry of a device in memory, None if it is not present (VT-d spec 9.1, 9.3)."""
        words, size = self._scene.words, self._scene.memory_size
        root = self._iommu.root_table
        if root >= size:
            return None  # No table can be read there.
        low = words[(root >> 3) + (bdf >> 8) * 2]
        if not low & legacy_mode.PRESENT or (low & ADDRESS) >= size:
            return None
        index = ((low & ADDRESS) >> 3) + (bdf & 0xFF) * 2
        low, high = words[index], words[index + 1]
        return context_of(low, high) if low & legacy_mode.PRESENT else None

    def _wrong_context(self, bdf: int) -> str:
        """What is wrong with the context entry of a device."""
        context = self._contexts.get(bdf)
        if context is None:
            return ""
        domain = self.domain_of(bdf)
        if domain >= 0 and context == context_of(*legacy_mode.context_entry(domain + 1, context.root, DMA_LEVELS)):
            return ""
        text = f"table {context.root:#x}, domain id {context.did}, other bits {context.low:#x}, {context.high:#x}"
        return f"for a moment the context entry of device {bdf:#06x} is present with {text}: that of no domain"

    def _judge_reserved(self, bdf: int, moments: Moments) -> None:
        """While a device has a domain, its reserved memory must be mapped there."""
        owner = self.domain_of(bdf)
        for page, device in self._reserved.items():
            if device == bdf:
                kept = owner == NOBODY or any(
                    (leaf := self._live.leaf(word)) is not None
                    and (leaf.space, leaf.page, leaf.rights) == (owner | DMA, page, READ | WRITE)
                    for word in self._live.naming(page)
                )
                text = (
                    f"for a moment device {bdf:#06x} is in dom{owner}, where its reserved page {page:#x} is not mapped"
                )
                moments.judge("reserved", page, "" if kept else text)
