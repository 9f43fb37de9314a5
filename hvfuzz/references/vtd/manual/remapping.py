"""The IOMMU by the manual: what each step of a case shows. The QEMU quirks that it is given change that.

Where the manual leaves a choice, the one that `hvfuzz.machine.vtd.iommu` documents is taken: cached entries stay until
they are invalidated, by no more than was requested; and a walk for a right that a cached translation lacks replaces it.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from hvfuzz.references.reference import Quirk
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.case import (
    Case,
    ClearFaults,
    Descriptor,
    Dma,
    InvalidateContext,
    InvalidateIotlb,
    MaskEvents,
    SetRoot,
    Step,
    Store,
    SwitchTranslation,
)
from hvfuzz.references.vtd.manual.fault_registers import FaultRegisters
from hvfuzz.references.vtd.manual.iotlb import Iotlb
from hvfuzz.references.vtd.manual.tables import INTERRUPT_PAGES, ContextEntry, Leaf, Tables, Unusable, table_offset
from hvfuzz.references.vtd.memory_map import ROOT, SCRATCH_WORDS
from hvfuzz.references.vtd.qemu import DEVICES, MEMORY

GLOBAL, DOMAIN, SELECTIVE = 1, 2, 3
"""Granularities of both invalidations (6.5.1); one device, or some pages, is the finest."""
IGNORED_BITS: Final = (0, 0b100, 0b110, 0b111)
"""Bits of the function number that the function mask FM takes out of the comparison (6.5.1.1)."""
MOST_PAGES: Final = 18
"""The largest address mask that CAP_REG.MAMV reports."""
OPTIONAL_TYPES: Final = (3, 4, 6, 7)
"""Types of descriptors for device TLBs, interrupt entries and PASIDs, which neither side reports as supported."""


class Shown(NamedTuple):
    """What software and devices see after a step."""

    status: int
    """FSTS_REG."""
    event: int
    """FECTL_REG."""
    record: tuple[int, int] | None
    """The fault recording register if F is set."""
    targets: tuple[int | None, ...] = ()
    """For each page of a DMA the hpa reached; None if the request was blocked."""
    actual: int = 0
    """The granularity that CCMD_REG reports (CAIG), after a context invalidation."""
    before: tuple[int, ...] = ()
    """Before the last write of the step: FECTL_REG, when F was cleared; or FSTS_REG and the number of descriptors that
    were performed when IQE was cleared."""


class Remapping:
    """An IOMMU with `some` of QEMU's quirks, at the start of a case: its tables are written, both caches are empty."""

    def __init__(self, width: int, case: Case, some: Iterable[Quirk] = ()) -> None:
        self.uses: Final = quirks.Uses(some)
        self.faults: Final = FaultRegisters(self.uses)
        self._words: dict[int, int] = dict(SCRATCH_WORDS) | {store.hpa: store.value for store in case.tables}
        self._tables: Final = Tables(width, MEMORY, self._words)
        self._iotlb: Final = Iotlb(self.uses)
        self._contexts: dict[int, ContextEntry] = {}
        """The context cache, by requester id."""
        self._dids: dict[int, set[int]] = {bdf: set() for bdf in DEVICES}
        """Domain ids that each device has used."""
        self._passed: dict[int, ContextEntry] = {}
        """For the quirk pass-through-early: pass-through entries that are used without a look-up, by requester id."""
        self._root = ROOT
        self._enabled = True
        self._watch_pass_through(DEVICES)

    def step(self, step: Step) -> Shown:
        """Perform a step."""
        faults = self.faults
        targets: tuple[int | None, ...] = ()
        actual = 0
        before: tuple[int, ...] = ()
        match step:
            case Store():
                self._words[step.hpa] = step.value
            case Dma():
                access = 2 if step.to_memory else 1
                targets = tuple(self._translate(DEVICES[step.device], iova, access) for iova, _ in step.pieces())
            case InvalidateContext():
                actual = self._invalidate_context(step)
            case InvalidateIotlb():
                self._invalidate_iotlb(step)
            case Descriptor():
                before = self._invalid_descriptor(step)
            case ClearFaults():
                if step.record:
                    faults.clear_record()
                before = (faults.event(),)
                faults.write_status(overflow=step.overflow)
            case MaskEvents():
                faults.mask(step.masked)
            case SetRoot():
                self._root = step.hpa
                self._global_command()
            case SwitchTranslation():
                self._enabled = step.on
                self._global_command()
        return Shown(faults.status(), faults.event(), faults.record, targets, actual, before)

    # Requests.

    def _translate(self, bdf: int, iova: int, access: int) -> int | None:
        """The hpa that a request reaches; None if it is blocked (7.1.3)."""
        if not self._enabled or iova >> 12 in INTERRUPT_PAGES:
            return iova
        if bdf in self._passed and self.uses(quirks.PASS_EARLY):
            return self._pass_through(self._passed[bdf], bdf, iova, access)
        if self.uses(quirks.IOTLB_FIRST):
            found = self._cached(bdf, self._dids[bdf], iova, access)
            if found:
                return found[0]
        context = self._contexts.get(bdf) or self._tables.context(self._root, bdf)
        if isinstance(context, Unusable):
            suppressed = context.fpd and not (context.reason == 11 and self.uses(quirks.FPD_RESERVED))
            if not suppressed:
                self.faults.report(context.reason, bdf, iova, access, has_context=False)
            return None
        self._contexts[bdf] = context
        self._dids[bdf].add(context.did)
        if context.passes:
            self._passed[bdf] = context
            return self._pass_through(context, bdf, iova, access)
        if iova >> context.width:
            return self._block(context, 4, bdf, iova, access)
        found = self._cached(bdf, (context.did,), iova, access)
        return found[0] if found else self._walk(context, bdf, iova, access)

    def _pass_through(self, context: ContextEntry, bdf: int, iova: int, access: int) -> int | None:
        """Answer a request by a pass-through entry, whose width holds, too (7.1.3)."""
        if iova >> context.width and not self.uses(quirks.PASS_WIDTH):
            return self._block(context, 4, bdf, iova, access)
        return iova

    def _cached(self, bdf: int, dids: Iterable[int], iova: int, access: int) -> tuple[int | None] | tuple[()]:
        """The answer of the IOTLB: (hpa), (None) for a request that is dropped, or () if there is no answer."""
        entry = self._iotlb.lookup(bdf, tuple(dids), iova)
        if entry is None:
            return ()
        if entry.rights & access:
            return (entry.hpa_of(iova),)
        return (None,) if self.uses(quirks.SILENT) else ()

    def _walk(self, context: ContextEntry, bdf: int, iova: int, access: int) -> int | None:
        """Walk the tables, and cache the translation; a fault leaves the IOTLB as it is."""
        leaf = self._tables.leaf(context, iova, access)
        if isinstance(leaf, int):
            return self._block(context, leaf, bdf, iova, access)
        hpa = leaf.hpa | table_offset(iova, leaf.level) | iova & 0xFFF
        if hpa >> 12 in INTERRUPT_PAGES or (_overlaps_interrupts(leaf) and self.uses(quirks.INTERRUPT_SUPERPAGE)):
            return self._block(context, 14, bdf, iova, access)
        self._iotlb.fill(bdf, context.did, iova, leaf)
        return hpa

    def _block(self, context: ContextEntry, reason: int, bdf: int, iova: int, access: int) -> int | None:
        """Block a request, and record the fault unless FPD is set (9.3)."""
        if not context.fpd:
            self.faults.report(reason, bdf, iova, access, has_context=True)
        return None

    # Commands.

    def _invalidate_context(self, step: InvalidateContext) -> int:
        """Invalidate the context cache (6.5.1.1); the granularity that hardware reports."""
        actual = step.granularity
        if actual == DOMAIN and self.uses(quirks.CONTEXT_DOMAIN):
            actual = GLOBAL
        compared = 0xFFFF & ~IGNORED_BITS[step.function_mask]
        for bdf in DEVICES:
            context = self._contexts.get(bdf)
            if actual == GLOBAL:
                named = True
            elif actual == DOMAIN:
                named = context is not None and context.did == step.did
            else:
                named = actual == SELECTIVE and not (bdf ^ step.bdf) & compared
                if named and (context is None or context.did != step.did):
                    named = self.uses(quirks.CONTEXT_DEVICE)
            if named:
                self._contexts.pop(bdf, None)
                self._watch_pass_through((bdf,))
        return actual

    def _invalidate_iotlb(self, step: InvalidateIotlb) -> None:
        """Invalidate the IOTLB (6.5.1.2); a request with an unsupported field does nothing."""
        if step.granularity == GLOBAL:
            self._iotlb.invalidate()
        elif step.granularity == DOMAIN:
            self._iotlb.invalidate(step.did)
        elif step.granularity == SELECTIVE and step.order <= MOST_PAGES:
            self._iotlb.invalidate_pages(step.did, step.iova, step.order)

    def _invalid_descriptor(self, step: Descriptor) -> tuple[int, ...]:
        """An invalid descriptor, which software replaces by a valid one; then it clears IQE (6.5.2.10)."""
        if step.low & 0xF in OPTIONAL_TYPES and self.uses(quirks.QUEUE_TYPES):
            return self.faults.status(), 0
        self.faults.set_queue_error()
        status = self.faults.status()
        self.faults.write_status(queue_error=True)
        return status, 0 if self.uses(quirks.QUEUE_RESUME) else 1

    def _global_command(self) -> None:
        """Set the root table, or switch translation: neither invalidates anything (6.6)."""
        if self.uses(quirks.FLUSHES):
            self._contexts.clear()
            self._iotlb.invalidate()
        self._watch_pass_through(DEVICES)

    def _watch_pass_through(self, bdfs: Iterable[int]) -> None:
        """Read the context entries of devices for the quirk pass-through-early."""
        for bdf in bdfs:
            context = self._tables.context(self._root, bdf)
            self._passed.pop(bdf, None)
            if isinstance(context, ContextEntry) and context.passes:
                self._passed[bdf] = context


def _overlaps_interrupts(leaf: Leaf) -> bool:
    """Whether a page of a leaf maps into the interrupt range."""
    first = leaf.hpa >> 12
    return first < INTERRUPT_PAGES.stop and INTERRUPT_PAGES.start < first + (1 << 9 * (leaf.level - 1))
