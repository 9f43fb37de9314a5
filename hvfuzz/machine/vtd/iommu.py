"""The IOMMU: Intel VT-d in legacy mode, with its IOTLB and its context cache, which software must invalidate.

Software can control it by the methods here, or by `registers`, whose commands are those of the manual.

    bdf --root entry--> context table --context entry--> second-level tables --> Hpa
         \\_______ context_cache: bdf _______/ \\_______ iotlb: (did, page) _______/

The manual ("VT-d spec", chapters 3, 6, 7, 9) leaves some choices to the implementation. They are made as follows:
- Cached entries stay in use until software invalidates them, even if the tables have changed: if a hypervisor forgets
  an invalidation, devices can use the stale entries. Not-present entries are not cached (CAP_REG.CM = 0). A fault
  caches nothing, and evicts nothing.
- Changing the root table invalidates nothing; software must do that (6.6). The IOTLB is tagged by domain id only.
- A superpage is cached as one entry for each 4 KiB used, so a page-selective invalidation must cover it by its address
  mask, as the manual demands of software (10.4.8.2). Paging-structure caches are not modelled.
- If a cached translation lacks the right, the tables are walked again, and the result replaces it: additional rights
  need no invalidation, fewer rights do.
- Requests to 0xFEExxxxx are interrupts (3.14): they are passed on unchanged, without reading any table.
- By default faults are not compressed: each uses a recording register while one is free (7.2.1).
"""

from typing import Final

from hvfuzz.machine.addresses import MAXPHYADDR, PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.fault_log import FaultLog, FaultRecord
from hvfuzz.machine.vtd.invalidation_queue import InvalidationQueue
from hvfuzz.machine.vtd.legacy_mode import INTERRUPT_RANGE, WIDTH_OF_LEVELS, FaultReason, TranslationType
from hvfuzz.machine.vtd.remapping_registers import VtdRegisters
from hvfuzz.machine.vtd.walker import Blocked, Context, VtdTables

IOTLB_CAPACITY: Final = 64
CONTEXT_CAPACITY: Final = 16
FAULT_RECORDS: Final = 8
"""Fault recording registers (CAP_REG.NFR)."""


class DmaFault(Exception):
    """The IOMMU blocked a request of a device. `iova` is the requested address, not just its page."""

    __snapshot_leaf__ = True

    def __init__(self, reason: FaultReason, bdf: int, iova: int) -> None:
        super().__init__(reason, bdf, iova)
        self.reason = reason
        self.bdf = bdf
        self.iova = iova

    def __str__(self) -> str:
        return f"DMA of device {self.bdf:#06x} to iova {self.iova:#x} blocked: {self.reason.name}"


class Iommu:
    """The single IOMMU, in front of every device.

    After reset translation is off, and every request is passed on unchanged (10.4.4, GCMD_REG.TE). Addresses are plain
    ints: an Iova in, an Hpa out. `host_width` (HAW) is the lowest reserved address bit of table entries. A context
    entry may have 39 bits of IOVA, or 48 if `guest_width` (MGAW) is 48. `fault_records` is the number of fault
    recording registers; with `compress_faults` each requester uses at most one of them at a time.
    """

    __slots__ = (
        "capacity",
        "clock",
        "context_cache",
        "enabled",
        "hits",
        "iotlb",
        "log",
        "misses",
        "queue",
        "registers",
        "root_set",
        "root_table",
        "tables",
    )

    def __init__(
        self,
        memory: PhysicalMemory,
        clock: Clock,
        *,
        host_width: int = MAXPHYADDR,
        guest_width: int = 48,
        fault_records: int = FAULT_RECORDS,
        compress_faults: bool = False,
    ) -> None:
        self.clock = clock
        self.tables: VtdTables = VtdTables(memory, clock, host_width, guest_width)
        """The walker. Set `tables.record` to record the steps of walks."""
        self.enabled: bool = False
        self.root_table: int = 0
        """Hpa of the root table in use."""
        self.root_set: bool = False
        """GSTS_REG.RTPS: software has set a root table."""
        self.context_cache: dict[int, Context] = {}
        """bdf -> its context entry, oldest first."""
        self.iotlb: dict[tuple[int, int], tuple[int, int]] = {}
        """(did, iova >> 12) -> (Hpa of the page, rights READ | WRITE), oldest first."""
        self.capacity: int = IOTLB_CAPACITY
        """Capacity of the IOTLB in entries; change it by `set_capacity`."""
        self.log: FaultLog = FaultLog(fault_records, compress=compress_faults)
        """The fault recording registers, and the other fields of FSTS_REG."""
        self.hits: int = 0
        self.misses: int = 0
        self.queue: InvalidationQueue = InvalidationQueue(self)
        """Disabled until software enables it by `registers`."""
        self.registers: VtdRegisters = VtdRegisters(self)

    @property
    def faults(self) -> list[FaultRecord]:
        """The recorded faults, oldest first."""
        return self.log.pending()

    @property
    def overflow(self) -> bool:
        """FSTS_REG.PFO: a fault was lost because no register was free. None is recorded until this is cleared."""
        return self.log.overflow

    def set_root_table(self, root_table: int) -> None:
        """Use the root table at Hpa `root_table` (GCMD_REG.SRTP)."""
        self.root_table = root_table & ~PAGE_MASK
        self.root_set = True

    def enable(self, root_table: int) -> None:
        """Use the root table at Hpa `root_table`, and enable translation (GCMD_REG.SRTP, then TE)."""
        self.set_root_table(root_table)
        self.enabled = True

    def disable(self) -> None:
        """Disable translation; the caches keep their entries."""
        self.enabled = False

    def set_capacity(self, capacity: int) -> None:
        """Retain at most `capacity` IOTLB entries; evict the oldest. Raises ValueError for a negative number."""
        if capacity < 0:
            raise ValueError(f"IOTLB capacity {capacity} is negative")
        self.capacity = capacity
        iotlb = self.iotlb
        for tag in list(iotlb)[: max(0, len(iotlb) - capacity)]:
            del iotlb[tag]

    def clear_faults(self) -> None:
        """Clear all fault recording registers, and the overflow."""
        for index in range(len(self.log.records)):
            self.log.clear_record(index)
        self.log.clear_status(overflow=True)

    def invalidate_context(self, bdf: int | None = None, did: int | None = None, *, ignore: int = 0) -> None:
        """Drop the cached context entries of one device, of one domain, of both, or all (6.5.1.1).

        Bits of the requester id that are set in `ignore` (the function mask) are not compared. Translations that used
        the entries stay in the IOTLB.
        """
        self.clock.cycles += Cost.FLUSH
        cache = self.context_cache
        if bdf is None and did is None:
            cache.clear()
            return
        for key in list(cache):
            if (bdf is None or not (key ^ bdf) & ~ignore) and (did is None or cache[key].did == did):
                del cache[key]

    def invalidate_iotlb(self, did: int | None = None, iova: int | None = None, order: int = 0) -> None:
        """Drop all translations, those of domain `did`, or those of its 2**order pages around `iova` (6.5.1.2).

        The pages are those of the aligned range that contains the address `iova`. Raises ValueError for an `iova`
        without a domain.
        """
        self.clock.cycles += Cost.FLUSH
        iotlb = self.iotlb
        if did is None:
            if iova is not None:
                raise ValueError("a page-selective invalidation requires a domain id")
            iotlb.clear()
        elif iova is None:
            for tag in [tag for tag in iotlb if tag[0] == did]:
                del iotlb[tag]
        elif order == 0:
            iotlb.pop((did, iova >> PAGE_SHIFT), None)
        else:
            block = iova >> PAGE_SHIFT + order
            for tag in [tag for tag in iotlb if tag[0] == did and tag[1] >> order == block]:
                del iotlb[tag]

    def translate(self, bdf: int, iova: int, access: int) -> int:
        """The Hpa for `access` (READ, WRITE or both) by device `bdf`, within one page, at the 64-bit `iova`.

        If the request is blocked, records the fault and raises DmaFault. There may be no memory at the Hpa.
        """
        if not self.enabled or iova >> 20 == INTERRUPT_RANGE:
            return iova
        context = self.context_cache.get(bdf)
        if context is None:
            context = self._load_context(bdf, iova, access)
        did, slptptr, levels, tt, fpd = context
        # 7.1.3: an IOVA beyond the width of the context entry.
        if iova >> WIDTH_OF_LEVELS[levels]:
            raise self._blocked(FaultReason.BEYOND_WIDTH, bdf, iova, access, fpd)
        if tt is TranslationType.PASS_THROUGH:
            return iova
        iotlb = self.iotlb
        tag = (did, iova >> PAGE_SHIFT)
        entry = iotlb.get(tag)
        if entry is not None and entry[1] & access == access:
            self.hits += 1
            self.clock.cycles += Cost.TLB_HIT
            return entry[0] | iova & PAGE_MASK
        self.misses += 1
        page = self.tables.page(slptptr, levels, iova, access)
        if isinstance(page, FaultReason):
            raise self._blocked(page, bdf, iova, access, fpd)
        if entry is None and len(iotlb) >= self.capacity:
            if self.capacity == 0:
                return page[0] | iova & PAGE_MASK
            del iotlb[next(iter(iotlb))]
        iotlb[tag] = page
        return page[0] | iova & PAGE_MASK

    def _load_context(self, bdf: int, iova: int, access: int) -> Context:
        """Read the root entry and the context entry of `bdf`, and cache the result."""
        context = self.tables.context(self.root_table, bdf)
        if isinstance(context, Blocked):
            raise self._blocked(context.reason, bdf, iova, access, context.fpd)
        cache = self.context_cache
        if len(cache) >= CONTEXT_CAPACITY:
            del cache[next(iter(cache))]
        cache[bdf] = context
        return context

    def _blocked(self, reason: FaultReason, bdf: int, iova: int, access: int, fpd: bool) -> DmaFault:
        """Record the fault (7.2.1), unless FPD is set (9.3), and return the exception to raise."""
        if not fpd:
            self.log.record(reason, bdf, iova, access)
        return DmaFault(reason, bdf, iova)
