"""Our side of the comparison: memory, the model of the IOMMU, and a model of the edu device that asks it.

TableWord the IOMMU model and QEMU differ by a named quirk, and only there, `Model` says what QEMU does instead.
"""

from collections import Counter
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.clock import Clock
from hvfuzz.machine.memory import PhysicalMemory
from hvfuzz.machine.vtd.invalidation_queue import FUNCTION_BITS, MOST_ADDRESS_MASK, Granularity
from hvfuzz.machine.vtd.legacy_mode import INTERRUPT_RANGE, WIDTH_OF_LEVELS, FaultReason, TranslationType
from hvfuzz.machine.vtd.unit import DmaFault, Iommu
from hvfuzz.machine.vtd.walker import Blocked, Context, WalkStep
from hvfuzz.references.reference import Quirk
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.case import InvalidateContext, InvalidateIotlb
from hvfuzz.references.vtd.qemu import DEVICES, MEMORY
from hvfuzz.references.vtd.qemu_iotlb import QemuIotlb, cached_by_walk

CACHE: Final = 1 << 16
"""Capacity of the IOTLB: no case fills it, so that nothing is evicted on either side."""


class Model:
    """Memory and IOMMU of `width` bits, with QEMU's single fault recording register."""

    def __init__(self, width: int, memory: PhysicalMemory) -> None:
        self.memory: Final = memory
        self.width: Final = width
        self.iommu: Final = Iommu(
            memory, Clock(), host_width=width, guest_width=width, fault_records=1, compress_faults=True
        )
        self.iommu.set_capacity(CACHE)
        self.buffers: Final = tuple(bytearray(PAGE_SIZE) for _ in DEVICES)
        """The edu devices' own buffers."""
        self.quirks: Final[Counter[str]] = Counter()
        """Quirks that the present case met."""
        self._shadow = QemuIotlb()
        self._walked_by: dict[tuple[int, int], int] = {}
        """(did, page) -> the device whose walk our model cached."""
        self._passing: dict[int, bool] = dict.fromkeys(DEVICES, False)
        """Devices that QEMU does not translate for."""

    def meet(self, quirk: Quirk) -> None:
        """This case is concerned by a quirk."""
        self.quirks[quirk.name] += 1

    def reach(self, bdf: int, iova: int, access: int) -> int | None:
        """TableWord the request of a device goes, within one page; None if it is blocked."""
        iommu = self.iommu
        if not iommu.enabled:
            return iova
        if iova >> 20 == INTERRUPT_RANGE:
            self.meet(quirks.INTERRUPT_WINDOW)
            return self._ask(bdf, iova, access)
        known = iommu.context_cache.get(bdf)
        context = known if known is not None else iommu.tables.context(iommu.root_table, bdf)
        if isinstance(context, Context) and context.tt is TranslationType.PASS_THROUGH:
            beyond = iova >> WIDTH_OF_LEVELS[context.levels] != 0
            if self._passing[bdf] or known is not None or self._shadow.lookup(bdf, iova >> PAGE_SHIFT) is None:
                self._passing[bdf] = True
                if beyond:
                    self.meet(quirks.PASS_WIDTH)
                    self._ask(bdf, 0, access)  # the context entry is cached all the same
                    return iova
                return self._ask(bdf, iova, access)
        elif self._passing[bdf]:
            self.meet(quirks.PASS_EARLY)
            return iova
        return self._translate(bdf, iova, access, context)

    def _translate(self, bdf: int, iova: int, access: int, context: Context | Blocked) -> int | None:
        """The same for a request that is translated, as far as QEMU knows."""
        page = iova >> PAGE_SHIFT
        theirs = self._shadow.lookup(bdf, page)
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
                self.meet(quirks.BY_SOURCE)
                assert isinstance(context, Context)
                return self._walk(bdf, iova, access, context)
            return self._ask(bdf, iova, access)
        if tag is None or theirs.did != tag[0]:
            self.meet(quirks.IOTLB_FIRST)
        elif ours is None and theirs.level > 1 and not self._shadow.used(bdf, theirs, page):
            self.meet(quirks.SUPERPAGE)
        elif ours is not None and ours != theirs.of_page(page) and self._walked_by.get(tag) != bdf:
            self.meet(quirks.BY_SOURCE)
        elif ours == theirs.of_page(page) and theirs.rights & access != access:
            self.meet(quirks.SILENT)
        else:
            known = bdf in self.iommu.context_cache
            hpa = self._ask(bdf, iova, access)
            if not known:  # QEMU did not even look at the context entry, so it cannot have cached it
                self.iommu.invalidate_context(bdf)
                self.meet(quirks.IOTLB_FIRST)
            return hpa
        if theirs.rights & access != access:
            return None
        return theirs.of_page(page)[0] | iova & PAGE_MASK

    def _ask(self, bdf: int, iova: int, access: int) -> int | None:
        """Ask our model, and note what a walk leaves in QEMU's cache."""
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
                self.meet(quirks.COMPRESSED)
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
        self._shadow.fill(bdf, entry, page)
        self._walked_by[context.did, page] = bdf
        return hpa

    def _walk(self, bdf: int, iova: int, access: int, context: Context) -> int | None:
        """A walk that QEMU does and our model does not, for another device of the domain did it."""
        iommu = self.iommu
        iommu.context_cache[bdf] = context  # for QEMU looked at it
        steps: list[WalkStep] = []
        iommu.tables.record = steps
        found = iommu.tables.page(context.slptptr, context.levels, iova, access)
        iommu.tables.record = None
        if not isinstance(found, FaultReason):
            entry = cached_by_walk(steps, context.did, iova >> PAGE_SHIFT, self.width)
            assert entry is not None
            if not entry.hits_interrupts():
                self._shadow.fill(bdf, entry, iova >> PAGE_SHIFT)
                return found[0] | iova & PAGE_MASK
            self.meet(quirks.INTERRUPT_SUPERPAGE)
            found = FaultReason.INTERRUPT_RANGE
        if not context.fpd:
            iommu.log.record(found, bdf, iova, access)
        return None

    def _refuse_superpage(self, bdf: int, iova: int, access: int, context: Context) -> None:
        """QEMU blocks all of a superpage that overlaps the interrupt range, and caches nothing."""
        self.meet(quirks.INTERRUPT_SUPERPAGE)
        self.iommu.invalidate_iotlb(context.did, iova)
        if not context.fpd:
            self.iommu.log.record(FaultReason.INTERRUPT_RANGE, bdf, iova, access)

    def _note_fault(self, fault: DmaFault, access: int) -> None:
        """Record a fault that the manual lets FPD suppress, and QEMU does not."""
        if fault.reason is FaultReason.CONTEXT_RESERVED:
            context = self.iommu.tables.context(self.iommu.root_table, fault.bdf)
            if isinstance(context, Blocked) and context.fpd:
                self.meet(quirks.FPD_RESERVED)
                self.iommu.log.record(fault.reason, fault.bdf, fault.iova, access)

    # What QEMU's caches lose beyond what was asked for, our model is made to lose too: hardware may.

    def lose_contexts(self, step: InvalidateContext, before: dict[int, Context]) -> None:
        """After a context invalidation, which found `before` in the cache."""
        if step.granularity == 0:
            return
        cache = self.iommu.context_cache
        ignored = FUNCTION_BITS[step.function_mask]
        for bdf in DEVICES:
            if step.granularity == Granularity.SELECTIVE and (bdf ^ step.bdf) & ~ignored:
                continue
            self._look_up_passing(bdf)
            if step.granularity != Granularity.GLOBAL and bdf in cache and before[bdf].did != step.did:
                one = step.granularity == Granularity.SELECTIVE
                self.meet(quirks.CONTEXT_DEVICE if one else quirks.CONTEXT_DOMAIN)
                self.iommu.invalidate_context(bdf)

    def lose_translations(self, step: InvalidateIotlb) -> None:
        """After an IOTLB invalidation."""
        if step.granularity == Granularity.GLOBAL:
            self._shadow.invalidate()
        elif step.granularity == Granularity.DOMAIN:
            self._shadow.invalidate(step.did)
        elif step.granularity == Granularity.SELECTIVE and step.order <= MOST_ADDRESS_MASK:
            page = step.iova >> PAGE_SHIFT
            for entry in self._shadow.invalidate_pages(step.did, page, step.order):
                touched = entry.page >> step.order <= page >> step.order <= entry.page + entry.pages - 1 >> step.order
                self.meet(quirks.SUPERPAGE if touched else quirks.ADDRESS_MASK)
                self.iommu.invalidate_iotlb(entry.did, entry.page << PAGE_SHIFT, 9 * (entry.level - 1))

    def lose_everything(self) -> None:
        """After a new root table, or a switch of translation."""
        self.meet(quirks.FLUSHES)
        self.iommu.invalidate_context()
        self.iommu.invalidate_iotlb()
        self._shadow.invalidate()
        for bdf in DEVICES:
            self._look_up_passing(bdf)

    def _look_up_passing(self, bdf: int) -> None:
        context = self.iommu.tables.context(self.iommu.root_table, bdf)
        self._passing[bdf] = isinstance(context, Context) and context.tt is TranslationType.PASS_THROUGH


def new_memory() -> PhysicalMemory:
    """Zeroed memory of the size that QEMU has."""
    return PhysicalMemory(MEMORY)
