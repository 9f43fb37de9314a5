"""The IOMMU: Intel VT-d in legacy mode, with the two caches that software has to invalidate.

Software has two ways to it: the methods here, and `registers`, where every command is as the manual has it.

    bdf --root entry--> context table --context entry--> second-level tables --> Hpa
         \\_______ context_cache: bdf _______/ \\_______ iotlb: (did, page) _______/

What the manual ("VT-d spec", chapters 3, 6, 7, 9) leaves to the implementation is settled like this:
- Both caches are used until somebody invalidates them, whatever became of the tables: what a hypervisor that
  forgets an invalidation leaves behind is there for a device to use. Not-present entries are not cached
  (CAP_REG.CM = 0), a fault caches nothing, and evicts nothing.
- Changing the root table invalidates nothing: that is software's duty (6.6). The IOTLB is tagged by domain id
  only.
- A superpage is cached as one entry for each 4 KiB used, so a page-selective invalidation has to cover it by
  its address mask, as software is told to do (10.4.8.2). Paging-structure caches are not modelled.
- A cached translation that lacks the right is walked again, and the outcome of that walk counts and takes its
  place: more rights need no invalidation, fewer rights do.
- Requests to 0xFEExxxxx are interrupts (3.14): they come out as they are, without a look at any table.
- Faults are not compressed, unless asked for: each takes a recording register, as long as there is one (7.2.1).
"""

from typing import Final

from hvfuzz.machine.addresses import MAXPHYADDR, PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.memory import PhysicalMemory
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
    """The IOMMU blocked a request of a device: no error of ours. `iova` is the whole address asked for."""

    __snapshot_leaf__ = True

    def __init__(self, reason: FaultReason, bdf: int, iova: int) -> None:
        super().__init__(reason, bdf, iova)
        self.reason = reason
        self.bdf = bdf
        self.iova = iova

    def __str__(self) -> str:
        return f"DMA of device {self.bdf:#06x} to iova {self.iova:#x} blocked: {self.reason.name}"


class Iommu:
    """The one IOMMU, in front of every device.

    After reset translation is off and every request comes out as it is (10.4.4, GCMD_REG.TE). Addresses are
    plain ints: an Iova in, an Hpa out. `host_width` (HAW) is where reserved bits of table entries begin; a
    context entry may ask for 39 bits of IOVA, or for 48 if `guest_width` (MGAW) is 48. There are `fault_records`
    fault recording registers; `compress_faults` keeps them for one pending fault of each requester.
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
        """The walker; `tables.record` explains a walk."""
        self.enabled: bool = False
        self.root_table: int = 0
        """Hpa of the root table in use."""
        self.root_set: bool = False
        """GSTS_REG.RTPS: software has set a root table."""
        self.context_cache: dict[int, Context] = {}
        """bdf -> what its context entry said, oldest first."""
        self.iotlb: dict[tuple[int, int], tuple[int, int]] = {}
        """(did, iova >> 12) -> (Hpa of the page, rights READ | WRITE), oldest first."""
        self.capacity: int = IOTLB_CAPACITY
        """Entries that the IOTLB holds; change it by `set_capacity`."""
        self.log: FaultLog = FaultLog(fault_records, compress=compress_faults)
        """The fault recording registers, and what else FSTS_REG shows."""
        self.hits: int = 0
        self.misses: int = 0
        self.queue: InvalidationQueue = InvalidationQueue(self)
        """Off until software enables it by `registers`."""
        self.registers: VtdRegisters = VtdRegisters(self)

    @property
    def faults(self) -> list[FaultRecord]:
        """What the fault recording registers in use say, oldest first."""
        return self.log.pending()

    @property
    def overflow(self) -> bool:
        """FSTS_REG.PFO: a fault was lost as no register was free; none is recorded until this is cleared."""
        return self.log.overflow

    def set_root_table(self, root_table: int) -> None:
        """Use the root table at Hpa `root_table` from now on (GCMD_REG.SRTP)."""
        self.root_table = root_table & ~PAGE_MASK
        self.root_set = True

    def enable(self, root_table: int) -> None:
        """Use the root table at Hpa `root_table` and translate from now on (GCMD_REG.SRTP, then TE)."""
        self.set_root_table(root_table)
        self.enabled = True

    def disable(self) -> None:
        """Let every request through untranslated; the caches stay as they are."""
        self.enabled = False

    def set_capacity(self, capacity: int) -> None:
        """Retain at most `capacity` IOTLB entries from now on (0: none), evicting the oldest."""
        if capacity < 0:
            raise ValueError(f"IOTLB capacity {capacity} is negative")
        self.capacity = capacity
        iotlb = self.iotlb
        for tag in list(iotlb)[: max(0, len(iotlb) - capacity)]:
            del iotlb[tag]

    def clear_faults(self) -> None:
        """Free all fault recording registers, and clear the overflow."""
        for index in range(len(self.log.records)):
            self.log.clear_record(index)
        self.log.clear_status(overflow=True)

    def invalidate_context(self, bdf: int | None = None, did: int | None = None, *, ignore: int = 0) -> None:
        """Forget context entries (6.5.1.1): of one device, of one domain, or both; without an argument, all.

        Bits of the requester id that are set in `ignore` are not compared (the function mask). Translations made
        with the help of the entries stay in the IOTLB.
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
        """Forget translations (6.5.1.2): all, those of domain `did`, or of its 2**order pages around `iova`.

        `iova` is an address; the range is the aligned one that it lies in. There is no invalidation of a page
        for all domains.
        """
        self.clock.cycles += Cost.FLUSH
        iotlb = self.iotlb
        if did is None:
            if iova is not None:
                raise ValueError("a page-selective invalidation needs a domain id")
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

        Raises DmaFault, after it was recorded, if the request is blocked. Whether there is memory at the Hpa
        is another question.
        """
        if not self.enabled or iova >> 20 == INTERRUPT_RANGE:
            return iova
        context = self.context_cache.get(bdf)
        if context is None:
            context = self._load_context(bdf, iova, access)
        did, slptptr, levels, tt, fpd = context
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
        """Read the root and the context entry of `bdf`, and cache what they say."""
        context = self.tables.context(self.root_table, bdf)
        if isinstance(context, Blocked):
            raise self._blocked(context.reason, bdf, iova, access, context.fpd)
        cache = self.context_cache
        if len(cache) >= CONTEXT_CAPACITY:
            del cache[next(iter(cache))]
        cache[bdf] = context
        return context

    def _blocked(self, reason: FaultReason, bdf: int, iova: int, access: int, fpd: bool) -> DmaFault:
        """Record the fault, if software wants it and there is room for it (7.2.1), and make the exception."""
        if not fpd:
            self.log.record(reason, bdf, iova, access)
        return DmaFault(reason, bdf, iova)
