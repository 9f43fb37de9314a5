"""Queued invalidation: descriptors in memory that make the IOMMU invalidate its caches (VT-d spec, 6.5.2).

Descriptors have 128 bits. They are performed synchronously and in order when software moves the tail, up to the first
invalid one: there the head stays, FSTS_REG.IQE is set, and nothing is fetched until software clears it.
"""

from enum import IntEnum
from typing import Final, Protocol

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.physical_memory import BusError
from hvfuzz.machine.vtd.fault_log import EventMessage, FaultLog
from hvfuzz.machine.vtd.walker import VtdTables

DESCRIPTOR_SIZE: Final = 16
ENTRIES_SHIFT: Final = 8
"""A queue with the size code QS has 2**(QS + ENTRIES_SHIFT) descriptors, in 2**QS pages (10.4.23)."""
QUEUE_SIZE_MASK: Final = 7
MOST_ADDRESS_MASK: Final = 18
"""CAP_REG.MAMV: the largest address mask, of a 1 GiB page."""


class DescriptorType(IntEnum):
    """The supported descriptors; those for device TLBs, PASIDs and interrupts are invalid."""

    CONTEXT = 1
    """Context-cache invalidate (6.5.2.1)."""
    IOTLB = 2
    """IOTLB invalidate (6.5.2.3)."""
    WAIT = 5
    """Invalidation wait (6.5.2.8)."""


class Granularity(IntEnum):
    """G of a descriptor, CIRG of CCMD_REG and IIRG of IOTLB_REG; 0 is reserved in each."""

    GLOBAL = 1
    DOMAIN = 2
    SELECTIVE = 3
    """One device, or the pages given by the address and its mask."""


TYPE_MASK: Final = 0xF
GRANULARITY_SHIFT: Final = 4
DID_SHIFT: Final = 16
SID_SHIFT: Final = 32
FUNCTION_MASK_SHIFT: Final = 48
ADDRESS_MASK_BITS: Final = 0x3F
"""AM, in the high word of an IOTLB descriptor and in IVA_REG."""
WAIT_INTERRUPT: Final = 1 << 4
"""IF: signal an invalidation completion event."""
WAIT_STATUS: Final = 1 << 5
"""SW: write the status data to the status address."""
STATUS_DATA_SHIFT: Final = 32

CONTEXT_RESERVED: Final = (0xFFFC_0000_0000_FFC0, 0xFFFF_FFFF_FFFF_FFFF)
"""(Of the low word, of the high word.) Drain flags and fence are not reserved; they have no effect here."""
IOTLB_RESERVED: Final = (0xFFFF_FFFF_0000_FF00, 0xF80)
WAIT_RESERVED: Final = (0xFFFF_FF80, 3)
FUNCTION_BITS: Final = (0, 4, 6, 7)
"""FM -> the bits of the function number to ignore (6.5.1.1)."""


class RemappingCaches(Protocol):
    """The caches that an invalidation acts on."""

    def invalidate_context(self, bdf: int | None = None, did: int | None = None, *, ignore: int = 0) -> None: ...

    def invalidate_iotlb(self, did: int | None = None, iova: int | None = None, order: int = 0) -> None: ...


class QueueOwner(RemappingCaches, Protocol):
    """The parts of the IOMMU that its queue uses."""

    @property
    def clock(self) -> Clock: ...

    @property
    def log(self) -> FaultLog: ...

    @property
    def tables(self) -> VtdTables: ...


class InvalidationQueue:
    """The queue, its registers (in descriptors, not bytes), and the completion event of wait descriptors."""

    __slots__ = ("base", "completed", "completion", "enabled", "entries", "head", "iommu", "tail")

    def __init__(self, iommu: QueueOwner) -> None:
        self.iommu = iommu
        self.enabled: bool = False
        """GSTS_REG.QIES."""
        self.base: int = 0
        """Hpa of the first descriptor."""
        self.entries: int = 1 << ENTRIES_SHIFT
        self.head: int = 0
        """Index of the next descriptor to perform; 0 while the queue is off."""
        self.tail: int = 0
        """Index of the next descriptor that software will write."""
        self.completed: bool = False
        """ICS_REG.IWC: a wait descriptor with IF was performed."""
        self.completion: EventMessage = EventMessage()

    def enable(self, address: int) -> None:
        """Start the queue that IQA_REG describes."""
        self.base = address & ~PAGE_MASK
        self.entries = 1 << (address & QUEUE_SIZE_MASK) + ENTRIES_SHIFT
        self.head = 0
        self.enabled = True
        self.process()

    def disable(self) -> None:
        """Stop; the descriptors in the queue are not performed."""
        self.enabled = False
        self.head = 0

    def set_tail(self, tail: int) -> None:
        """Software has written the descriptors before `tail`."""
        self.tail = tail
        self.process()

    def clear_completed(self) -> None:
        """Software clears IWC."""
        self.completed = False
        self.completion.pending = False

    def process(self) -> None:
        """Perform descriptors until the queue is empty or one is invalid (6.5.2)."""
        log = self.iommu.log
        if not self.enabled:
            return
        while self.head != self.tail and not log.queue_error:
            if self.tail < self.entries and self._perform(self.base + self.head * DESCRIPTOR_SIZE):
                self.head = (self.head + 1) % self.entries
            else:
                log.report_queue_error()

    def _perform(self, hpa: int) -> bool:
        """Perform the descriptor at `hpa`; False if it is invalid, or no memory answers there."""
        iommu = self.iommu
        memory = iommu.tables.memory
        iommu.clock.cycles += Cost.WALK_REFERENCE
        try:
            low, high = memory.load64(hpa), memory.load64(hpa + 8)
        except BusError:
            return False
        kind = low & TYPE_MASK
        if kind == DescriptorType.CONTEXT:
            return not _reserved(low, high, CONTEXT_RESERVED) and perform_context(
                iommu,
                low >> GRANULARITY_SHIFT & 3,
                low >> DID_SHIFT & 0xFFFF,
                low >> SID_SHIFT & 0xFFFF,
                low >> FUNCTION_MASK_SHIFT & 3,
            )
        if kind == DescriptorType.IOTLB:
            return not _reserved(low, high, IOTLB_RESERVED) and perform_iotlb(
                iommu, low >> GRANULARITY_SHIFT & 3, low >> DID_SHIFT & 0xFFFF, high
            )
        return kind == DescriptorType.WAIT and not _reserved(low, high, WAIT_RESERVED) and self._wait(low, high)

    def _wait(self, low: int, high: int) -> bool:
        """Report that all previous descriptors are done, in memory, by an event, or both (6.5.2.8)."""
        if low & WAIT_STATUS:
            self.iommu.clock.cycles += Cost.COPY_PER_64B
            memory = self.iommu.tables.memory
            if high + 4 <= memory.size:  # Otherwise nothing answers there, and the write is lost.
                memory.store(high, 4, low >> STATUS_DATA_SHIFT)
        if low & WAIT_INTERRUPT and not self.completed:
            self.completed = True
            self.completion.signal()
        return True


def _reserved(low: int, high: int, bits: tuple[int, int]) -> bool:
    """Whether a reserved bit of a descriptor is set."""
    return low & bits[0] != 0 or high & bits[1] != 0


def perform_context(iommu: RemappingCaches, granularity: int, did: int, bdf: int, function_mask: int) -> bool:
    """Perform a context-cache invalidation (6.5.1.1); False if the granularity is reserved."""
    if granularity == Granularity.GLOBAL:
        iommu.invalidate_context()
    elif granularity == Granularity.DOMAIN:
        iommu.invalidate_context(did=did)
    elif granularity == Granularity.SELECTIVE:
        iommu.invalidate_context(bdf, did, ignore=FUNCTION_BITS[function_mask])
    else:
        return False
    return True


def perform_iotlb(iommu: RemappingCaches, granularity: int, did: int, address: int) -> bool:
    """Perform an IOTLB invalidation (6.5.1.2); `address` has the IOVA and AM. False if either field is unsupported."""
    order = address & ADDRESS_MASK_BITS
    if granularity == Granularity.GLOBAL:
        iommu.invalidate_iotlb()
    elif granularity == Granularity.DOMAIN:
        iommu.invalidate_iotlb(did)
    elif granularity == Granularity.SELECTIVE and order <= MOST_ADDRESS_MASK:
        iommu.invalidate_iotlb(did, address >> PAGE_SHIFT << PAGE_SHIFT, order)
    else:
        return False
    return True
