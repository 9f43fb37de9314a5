"""Our side of the comparison: memory, the IOMMU model, the edu devices' buffers, and QEMU's quirks.

The IOMMU model answers. Only where a named quirk applies, `Model` answers as QEMU does, and counts the quirk.
"""

from collections import Counter
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.clock import Clock
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.invalidation_queue import FUNCTION_BITS, MOST_ADDRESS_MASK, Granularity
from hvfuzz.machine.vtd.iommu import DmaFault, Iommu
from hvfuzz.machine.vtd.legacy_mode import INTERRUPT_RANGE, WIDTH_OF_LEVELS, FaultReason, TranslationType
from hvfuzz.machine.vtd.walker import Blocked, Context, WalkStep
from hvfuzz.references.reference import Quirk
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.case import InvalidateContext, InvalidateIotlb
from hvfuzz.references.vtd.qemu import DEVICES
from hvfuzz.references.vtd.qemu_iotlb import QemuIotlb, cached_by_walk

IOTLB_CAPACITY: Final = 1 << 16
"""Capacity of the IOTLB; no case fills it, so neither side evicts anything."""


class Model:
    """Memory and an IOMMU of `width` bits, configured as QEMU's: one fault recording register, faults compressed."""

    def __init__(self, width: int, memory: PhysicalMemory) -> None:
        self.memory: Final = memory
        self.width: Final = width
        self.iommu: Final = Iommu(
            memory, Clock(), host_width=width, guest_width=width, fault_records=1, compress_faults=True
        )
        self.iommu.set_capacity(IOTLB_CAPACITY)
        self.buffers: Final = tuple(bytearray(PAGE_SIZE) for _ in DEVICES)
        """Internal buffer of each edu device."""
        self.quirks: Final[Counter[str]] = Counter()
        """How often each quirk applied in the current case."""
        self._qemu_iotlb = QemuIotlb()
        self._walked_by: dict[tuple[int, int], int] = {}
        """{(did, page): requester id of the device whose walk our model cached}."""
        self._pass_through: dict[int, bool] = dict.fromkeys(DEVICES, False)
        """Whether QEMU passes the requests of a device through, by requester id."""

    def count_quirk(self, quirk: Quirk) -> None:
        """Note that a quirk applies to the current case."""
        self.quirks[quirk.name] += 1

    def translate(self, bdf: int, iova: int, access: int) -> int | None:
        """The hpa that a device's request within one page reaches in QEMU; None if the request is blocked."""
        iommu = self.iommu
        if not iommu.enabled:
            return iova
        if iova >> 20 == INTERRUPT_RANGE:
            self.count_quirk(quirks.INTERRUPT_WINDOW)
            return self._translate_by_model(bdf, iova, access)
        known = iommu.context_cache.get(bdf)
        context = known if known is not None else iommu.tables.context(iommu.root_table, bdf)
        if isinstance(context, Context) and context.tt is TranslationType.PASS_THROUGH:
            beyond = iova >> WIDTH_OF_LEVELS[context.levels] != 0
            if self._pass_through[bdf] or known is not None or self._qemu_iotlb.lookup(bdf, iova >> PAGE_SHIFT) is None:
                self._pass_through[bdf] = True
                if beyond:
                    self.count_quirk(quirks.PASS_WIDTH)
                    self._translate_by_model(bdf, 0, access)  # caches the context entry, as QEMU does
                    return iova
                return self._translate_by_model(bdf, iova, access)
        elif self._pass_through[bdf]:
            self.count_quirk(quirks.PASS_EARLY)
            return iova
        return self._translate_by_tables(bdf, iova, access, context)

    def _translate_by_tables(self, bdf: int, iova: int, access: int, context: Context | Blocked) -> int | None:
        """`translate`, for a request that QEMU does not pass through."""
        page = iova >> PAGE_SHIFT
        theirs = self._qemu_iotlb.lookup(bdf, page)
        tag = None
        if (
            isinstance(context, Context)
            and context.tt is TranslationType.TRANSLATE
            and not iova >> WIDTH_OF_LEVELS[context.levels]
        ):
            tag = context.did, page
        ours = self.iommu.iotlb.get(tag) if tag is not None else None
        if theirs is None:
            if tag is not None and ours is not None and self._walked_by.get(tag) != bdf:
                self.count_quirk(quirks.BY_SOURCE)
                assert isinstance(context, Context)
                return self._walk_for_qemu(bdf, iova, access, context)
            return self._translate_by_model(bdf, iova, access)
        if tag is None or theirs.did != tag[0]:
            self.count_quirk(quirks.IOTLB_FIRST)
        elif ours is None and theirs.level > 1 and not self._qemu_iotlb.used(bdf, theirs, page):
            self.count_quirk(quirks.SUPERPAGE)
        elif ours is not None and ours != theirs.of_page(page) and self._walked_by.get(tag) != bdf:
            self.count_quirk(quirks.BY_SOURCE)
        elif ours == theirs.of_page(page) and theirs.rights & access != access:
            self.count_quirk(quirks.SILENT)
        else:
            known = bdf in self.iommu.context_cache
            hpa = self._translate_by_model(bdf, iova, access)
            if not known:  # QEMU has not read the context entry, so it has not cached it
                self.iommu.invalidate_context(bdf)
                self.count_quirk(quirks.IOTLB_FIRST)
            return hpa
        if theirs.rights & access != access:
            return None
        return theirs.of_page(page)[0] | iova & PAGE_MASK

    def _translate_by_model(self, bdf: int, iova: int, access: int) -> int | None:
        """The answer of the IOMMU model; a walk also fills our copy of QEMU's IOTLB."""
        iommu = self.iommu
        page = iova >> PAGE_SHIFT
        pending = any(record.bdf == bdf for record in iommu.faults)
        steps: list[WalkStep] = []
        iommu.tables.record = steps
        try:
            hpa: int | None = iommu.translate(bdf, iova, access)
        except DmaFault as fault:
            hpa = None
            if pending:
                self.count_quirk(quirks.COMPRESSED)
            self._note_fault(fault, access)
        finally:
            iommu.tables.record = None
        context = iommu.context_cache.get(bdf)
        if hpa is None or context is None:
            return hpa
        entry = cached_by_walk(steps, context.did, page, self.width)
        if entry is None:
            return hpa
        if entry.hits_interrupts():
            self._refuse_superpage(bdf, iova, access, context)
            return None
        self._qemu_iotlb.fill(bdf, entry, page)
        self._walked_by[context.did, page] = bdf
        return hpa

    def _walk_for_qemu(self, bdf: int, iova: int, access: int, context: Context) -> int | None:
        """A walk that only QEMU makes, because our model has the translation from another device of the domain."""
        iommu = self.iommu
        iommu.context_cache[bdf] = context  # QEMU has read it
        steps: list[WalkStep] = []
        iommu.tables.record = steps
        found = iommu.tables.page(context.slptptr, context.levels, iova, access)
        iommu.tables.record = None
        if not isinstance(found, FaultReason):
            entry = cached_by_walk(steps, context.did, iova >> PAGE_SHIFT, self.width)
            assert entry is not None
            if not entry.hits_interrupts():
                self._qemu_iotlb.fill(bdf, entry, iova >> PAGE_SHIFT)
                return found[0] | iova & PAGE_MASK
            self.count_quirk(quirks.INTERRUPT_SUPERPAGE)
            found = FaultReason.INTERRUPT_RANGE
        if not context.fpd:
            iommu.log.record(found, bdf, iova, access)
        return None

    def _refuse_superpage(self, bdf: int, iova: int, access: int, context: Context) -> None:
        """Block and do not cache a superpage that overlaps the interrupt range, as QEMU does."""
        self.count_quirk(quirks.INTERRUPT_SUPERPAGE)
        self.iommu.invalidate_iotlb(context.did, iova)
        if not context.fpd:
            self.iommu.log.record(FaultReason.INTERRUPT_RANGE, bdf, iova, access)

    def _note_fault(self, fault: DmaFault, access: int) -> None:
        """Record a fault that FPD suppresses by the manual (VT-d 7.1.3), but not in QEMU."""
        if fault.reason is FaultReason.CONTEXT_RESERVED:
            context = self.iommu.tables.context(self.iommu.root_table, fault.bdf)
            if isinstance(context, Blocked) and context.fpd:
                self.count_quirk(quirks.FPD_RESERVED)
                self.iommu.log.record(fault.reason, fault.bdf, fault.iova, access)

    # QEMU's caches drop more than an invalidation names, which VT-d allows. Our model is made to drop the same.

    def drop_contexts(self, step: InvalidateContext, before: dict[int, Context]) -> None:
        """Drop what QEMU drops in a context invalidation; `before` is the context cache before it."""
        if step.granularity == 0:
            return
        cache = self.iommu.context_cache
        ignored = FUNCTION_BITS[step.function_mask]
        for bdf in DEVICES:
            if step.granularity == Granularity.SELECTIVE and (bdf ^ step.bdf) & ~ignored:
                continue
            self._read_pass_through(bdf)
            if step.granularity != Granularity.GLOBAL and bdf in cache and before[bdf].did != step.did:
                one = step.granularity == Granularity.SELECTIVE
                self.count_quirk(quirks.CONTEXT_DEVICE if one else quirks.CONTEXT_DOMAIN)
                self.iommu.invalidate_context(bdf)

    def drop_translations(self, step: InvalidateIotlb) -> None:
        """Drop what QEMU drops in an IOTLB invalidation."""
        if step.granularity == Granularity.GLOBAL:
            self._qemu_iotlb.invalidate()
        elif step.granularity == Granularity.DOMAIN:
            self._qemu_iotlb.invalidate(step.did)
        elif step.granularity == Granularity.SELECTIVE and step.order <= MOST_ADDRESS_MASK:
            page = step.iova >> PAGE_SHIFT
            for entry in self._qemu_iotlb.invalidate_pages(step.did, page, step.order):
                touched = entry.page >> step.order <= page >> step.order <= entry.page + entry.pages - 1 >> step.order
                self.count_quirk(quirks.SUPERPAGE if touched else quirks.ADDRESS_MASK)
                self.iommu.invalidate_iotlb(entry.did, entry.page << PAGE_SHIFT, 9 * (entry.level - 1))

    def drop_all(self) -> None:
        """Empty all caches, as QEMU does when the root table is set or translation is switched."""
        self.count_quirk(quirks.FLUSHES)
        self.iommu.invalidate_context()
        self.iommu.invalidate_iotlb()
        self._qemu_iotlb.invalidate()
        for bdf in DEVICES:
            self._read_pass_through(bdf)

    def _read_pass_through(self, bdf: int) -> None:
        """Look up whether a device is passed through, at the moment at which QEMU does."""
        context = self.iommu.tables.context(self.iommu.root_table, bdf)
        self._pass_through[bdf] = isinstance(context, Context) and context.tt is TranslationType.PASS_THROUGH
