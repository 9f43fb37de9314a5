"""A second model of the IOMMU: where a request leads, what is cached, what it costs, and which faults are recorded.

Written from the VT-d specification (Intel D51397; chapters 3, 6, 7, 9) and from the choices that the machine documents:
each cache evicts its oldest entry, a fault caches nothing and evicts nothing, each page of a superpage is an entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvfuzz.machine.addresses import MAXPHYADDR, PAGE_MASK, PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.clock import Cost
from hvfuzz.oracles.exits.functions.dma_path import (
    ADDRESS,
    CONTEXT_RESERVED,
    DID_MASK,
    DID_SHIFT,
    ENTRY_RESERVED,
    INTERRUPTS,
    LARGE,
    PASSES_THROUGH,
    PRESENT,
    ROOT_RESERVED,
    TRANSLATES,
    WIDTH,
)

if TYPE_CHECKING:
    from hvfuzz.machine.vtd.iommu import Iommu

CONTEXTS: Final = 16
"""Entries of the context cache."""
SILENT: Final = 1 << 1
"""FPD of a context entry (9.3): no fault of the function is recorded, present or not."""
HIGH_RESERVED: Final = ~(0x7F | DID_MASK << DID_SHIFT)
"""Bits of the upper half of a context entry, without those that are free for software (9.3)."""
BEYOND: Final = -1 << MAXPHYADDR & (1 << 64) - 1
"""Address bits that the host lacks."""
# Fault reasons (7.1.3).
NO_ROOT, NO_CONTEXT, BAD_CONTEXT, TOO_WIDE, NOT_WRITABLE, NOT_READABLE, NO_TABLE = range(1, 8)
NO_CONTEXT_TABLE, ROOT_BITS, CONTEXT_BITS, ENTRY_BITS, TO_INTERRUPTS = 9, 10, 11, 12, 14
NO_ROOT_TABLE: Final = 8
WHAT: Final = (
    "context cache",
    "IOTLB",
    "fault recording registers",
    "fault status",
    "fault event",
    "counters",
    "switches",
    "clock",
)
"""The fields of `State`, in words."""


class State(NamedTuple):
    """What the IOMMU holds, to compare and to tell apart; caches oldest first."""

    contexts: list[tuple[int, Any]]
    iotlb: list[tuple[tuple[int, int], tuple[int, int]]]
    records: list[Any]
    faults: tuple[int, int, bool]
    """Next register, first register, overflow."""
    event: tuple[bool, bool, int]
    """Masked, pending, sent."""
    counters: tuple[int, int, int]
    """Hits, misses, capacity of the IOTLB."""
    switches: tuple[bool, int, bool]
    """Translation is on; the root table, and whether it was ever set."""
    cycles: int


def state(iommu: Iommu) -> State:
    """What the IOMMU of the machine holds now."""
    log, event = iommu.log, iommu.log.event
    return State(
        [(bdf, tuple(context)) for bdf, context in iommu.context_cache.items()],
        [*iommu.iotlb.items()],
        [None if record is None else tuple(record) for record in log.records],
        (log.next, log.first, log.overflow),
        (event.masked, event.pending, event.sent),
        (iommu.hits, iommu.misses, iommu.capacity),
        (iommu.enabled, iommu.root_table, iommu.root_set),
        iommu.clock.cycles,
    )


class Blocked(Exception):
    """The request is blocked. `args` are the reason and whether the context entry forbids a record."""


class SecondIommu:
    """The IOMMU of one machine, as it should be after what was done to this model."""

    __slots__ = ("_contexts", "_counters", "_cycles", "_event", "_faults", "_iotlb", "_records", "_switches", "_words")

    def __init__(self, iommu: Iommu, words: Any) -> None:
        """Copy the state as it is now; `words` is all of memory."""
        self._words: Final = words
        now = state(iommu)
        self._contexts = dict(now.contexts)
        self._iotlb = dict(now.iotlb)
        self._records = now.records
        self._faults, self._event, self._counters = now.faults, now.event, now.counters
        self._switches, self._cycles = now.switches, now.cycles

    def state(self) -> State:
        """What the IOMMU of the machine should hold now."""
        caches = [*self._contexts.items()], [*self._iotlb.items()]
        return State(*caches, self._records, self._faults, self._event, self._counters, self._switches, self._cycles)

    # Commands.

    def enable(self, root_table: int) -> None:
        """Use this root table, and translate."""
        self._switches = (True, root_table & ~PAGE_MASK, True)

    def disable(self) -> None:
        """Pass requests on unchanged."""
        self._switches = (False, *self._switches[1:])

    def set_capacity(self, capacity: int) -> None:
        """Have room for so many translations."""
        self._counters = (*self._counters[:2], capacity)
        while len(self._iotlb) > capacity:
            del self._iotlb[next(iter(self._iotlb))]

    def invalidate_context(self, bdf: int | None = None, did: int | None = None, *, ignore: int = 0) -> None:
        """Drop the context entries of a function, of a domain, of both, or all (6.5.1.1)."""
        self._cycles += Cost.FLUSH
        kept = {}
        for key, context in self._contexts.items():
            of_device = bdf is None or key | ignore == bdf | ignore
            if not (of_device and did in (None, context[0])):
                kept[key] = context
        self._contexts = kept

    def invalidate_iotlb(self, did: int | None = None, iova: int | None = None, order: int = 0) -> None:
        """Drop all translations, those of a domain, or those of 2**order of its pages (6.5.1.2)."""
        self._cycles += Cost.FLUSH
        page = None if iova is None else iova >> PAGE_SHIFT + order
        self._iotlb = {
            tag: entry
            for tag, entry in self._iotlb.items()
            if did not in (None, tag[0]) or page not in (None, tag[1] >> order)
        }

    # Requests.

    def translate(self, bdf: int, iova: int, access: int) -> tuple[Any, ...]:
        """("page", Hpa), or ("blocked", reason, bdf, iova) after the fault is recorded."""
        try:
            return "page", self._translate(bdf, iova, access)
        except Blocked as blocked:
            reason, silent = blocked.args
            if not silent:
                self._record((reason, bdf, iova & ~PAGE_MASK, access))
            return "blocked", reason, bdf, iova

    def _translate(self, bdf: int, iova: int, access: int) -> int:
        if not self._switches[0] or iova >> 20 == INTERRUPTS:
            return iova
        context = self._contexts.get(bdf)
        if context is None:
            context = self._read_context(bdf)
            if len(self._contexts) == CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            self._contexts[bdf] = context
        did, table, levels, kind, silent = context
        if iova >> PAGE_SHIFT + 9 * levels:
            raise Blocked(TOO_WIDE, silent)
        if kind == PASSES_THROUGH:
            return iova
        hits, misses, capacity = self._counters
        tag = (did, iova >> PAGE_SHIFT)
        cached = self._iotlb.get(tag)
        if cached is not None and not access & ~cached[1]:
            self._counters = (hits + 1, misses, capacity)
            self._cycles += Cost.TLB_HIT
            return cached[0] + (iova & PAGE_MASK)
        self._counters = (hits, misses + 1, capacity)
        frame, rights = self._walk(table, levels, iova, access, silent)
        self._iotlb[tag] = (frame, rights)
        if len(self._iotlb) > capacity:
            del self._iotlb[next(iter(self._iotlb))]
        return frame + (iova & PAGE_MASK)

    def _pair(self, table: int, index: int, absent: int, silent: bool = False) -> tuple[int, int]:
        """The two words of an entry; blocked with the reason `absent` if no memory answers."""
        self._cycles += Cost.WALK_REFERENCE
        at = (table >> 3) + 2 * index
        if at + 2 > len(self._words):
            raise Blocked(absent, silent)
        low: int = self._words[at]
        high: int = self._words[at + 1]
        return low, high

    def _read_context(self, bdf: int) -> tuple[int, int, int, int, bool]:
        """(did, table, levels, kind, no records) of the context entry of a function (3.4.2, 3.4.3)."""
        low, high = self._pair(self._switches[1], bdf >> 8, NO_ROOT_TABLE)
        if not low & PRESENT:
            raise Blocked(NO_ROOT, False)
        if high or low & (ROOT_RESERVED | BEYOND):
            raise Blocked(ROOT_BITS, False)
        low, high = self._pair(low & ~PAGE_MASK, bdf & 0xFF, NO_CONTEXT_TABLE)
        silent = low & SILENT != 0
        if not low & PRESENT:
            raise Blocked(NO_CONTEXT, silent)
        if low & (CONTEXT_RESERVED | BEYOND) or high & HIGH_RESERVED:
            raise Blocked(CONTEXT_BITS, silent)
        kind, width = low >> 2 & 3, high & WIDTH
        if kind not in (TRANSLATES, PASSES_THROUGH) or width not in (1, 2):
            raise Blocked(BAD_CONTEXT, silent)
        return high >> DID_SHIFT & DID_MASK, low & ~PAGE_MASK, width + 2, kind, silent

    def _walk(self, table: int, levels: int, iova: int, access: int, silent: bool) -> tuple[int, int]:
        """(Hpa of the page, rights) by the second-level tables; rights are checked before reserved bits (7.1.3)."""
        rights = READ | WRITE
        for level in range(levels, 0, -1):
            shift = PAGE_SHIFT + 9 * (level - 1)
            self._cycles += Cost.WALK_REFERENCE
            at = (table >> 3) + (iova >> shift & 511)
            if at >= len(self._words):
                raise Blocked(BAD_CONTEXT if level == levels else NO_TABLE, silent)
            entry: int = self._words[at]
            if access & ~entry:
                raise Blocked(NOT_WRITABLE if WRITE & access & ~entry else NOT_READABLE, silent)
            leaf = level == 1 or entry & LARGE != 0
            within = (1 << shift) - 1
            if entry & ENTRY_RESERVED or (leaf and (level == 4 or entry & ADDRESS & within)):
                raise Blocked(ENTRY_BITS, silent)
            rights &= entry
            table = entry & ADDRESS
            if leaf:
                break
        page = table | iova & within & ~PAGE_MASK
        if page >> 20 == INTERRUPTS:
            raise Blocked(TO_INTERRUPTS, silent)
        return page, rights

    def _record(self, record: tuple[int, int, int, int]) -> None:
        """Use the next fault recording register, or note an overflow; signal what no fault was pending for (7.2.1)."""
        at, first, overflow = self._faults
        if overflow:
            return
        if self._records[at] is not None:
            self._faults = (at, first, True)
            return
        fresh = not any(self._records)
        self._records[at] = record
        self._faults = ((at + 1) % len(self._records), at if fresh else first, False)
        if fresh:
            masked, pending, sent = self._event
            self._event = (masked, True, sent) if masked else (masked, pending, sent + 1)
