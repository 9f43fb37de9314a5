"""The registers of VT-d: what reading and writing each one does (chapter 10.4).

Registers are handled as doublewords; an access of eight bytes accesses the low half, then the high half. So when a
command in the high half of its register is performed, its operands in the low half have been written.
"""

from typing import Final, Protocol

from hvfuzz.machine.vtd.fault_log import (
    EVENT_MASK,
    EVENT_PENDING,
    RECORD_F,
    STATUS_OVERFLOW,
    STATUS_QUEUE_ERROR,
    EventMessage,
)
from hvfuzz.machine.vtd.invalidation_queue import InvalidationQueue, QueueOwner, perform_context, perform_iotlb
from hvfuzz.machine.vtd.register_layout import (
    CCMD_ACTUAL_SHIFT,
    CCMD_ICC,
    CCMD_READABLE_HIGH,
    CCMD_READABLE_LOW,
    CCMD_REQUEST_SHIFT,
    EXTENDED_CAPABILITIES,
    GLOBAL_QIE,
    GLOBAL_SRTP,
    GLOBAL_TE,
    ICS_IWC,
    IOTLB_ACTUAL_SHIFT,
    IOTLB_IVT,
    IOTLB_REQUEST_SHIFT,
    IQT_MASK,
    RECORD_SIZE,
    U32,
    VERSION,
    Register,
    capabilities,
)

_ADDRESS_OF_MESSAGE: Final = U32 & ~3
_WRITABLE: Final = {
    Register.RTADDR: U32 & ~0x3FF,
    Register.RTADDR + 4: U32,
    Register.CCMD: U32,
    Register.IQA: U32 & ~0xFF8,
    Register.IQA + 4: U32,
    Register.IVA: U32,
    Register.IVA + 4: U32,
}
"""Registers that keep the written value -> its writable bits."""
_READABLE: Final = {Register.CCMD: CCMD_READABLE_LOW, Register.IVA: 0, Register.IVA + 4: 0}
"""Registers that do not show all of the written value -> its readable bits."""


class RemappingUnit(QueueOwner, Protocol):
    """The parts of the IOMMU that its registers show and control."""

    enabled: bool

    @property
    def root_set(self) -> bool: ...

    @property
    def queue(self) -> InvalidationQueue: ...

    def set_root_table(self, root_table: int) -> None: ...


class VtdRegisters:
    """The register file. Accesses must be of 4 or 8 aligned bytes; others, and those to holes, read 0 or are ignored.

    `words` has the doublewords written by software whose values are not kept elsewhere.
    """

    __slots__ = ("_capabilities", "_iommu", "words")

    def __init__(self, iommu: RemappingUnit) -> None:
        self._iommu = iommu
        self._capabilities: int = capabilities(iommu.tables.guest_width, len(iommu.log.records))
        self.words: dict[int, int] = {}

    def read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset`, without side effects."""
        if size not in (4, 8) or offset & size - 1:
            return 0
        low = self._read(offset)
        return low if size == 4 else low | self._read(offset + 4) << 32

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `offset`, with all effects."""
        if size not in (4, 8) or offset & size - 1:
            return
        self._write(offset, value & U32)
        if size == 8:
            self._write(offset + 4, value >> 32 & U32)

    def _pair(self, register: int) -> int:
        """The value of an eight-byte register in `words`."""
        return self.words.get(register, 0) | self.words.get(register + 4, 0) << 32

    def _read(self, offset: int) -> int:
        iommu = self._iommu
        log, queue = iommu.log, iommu.queue
        if Register.FRCD <= offset < Register.FRCD + RECORD_SIZE * len(log.records):
            return self._read_record(offset - Register.FRCD)
        match offset:
            case Register.VER:
                return VERSION
            case Register.CAP:
                return self._capabilities & U32
            case 0x0C:
                return self._capabilities >> 32
            case Register.ECAP:
                return EXTENDED_CAPABILITIES
            case Register.GSTS:
                translating = GLOBAL_TE if iommu.enabled else 0
                return translating | (GLOBAL_SRTP if iommu.root_set else 0) | (GLOBAL_QIE if queue.enabled else 0)
            case Register.FSTS:
                return log.status()
            case Register.IQH:
                return queue.head << 4
            case Register.IQT:
                return queue.tail << 4
            case Register.ICS:
                return ICS_IWC if queue.completed else 0
        if Register.FECTL <= offset <= Register.FEUADDR:
            return _read_event(log.event, offset - Register.FECTL)
        if Register.IECTL <= offset <= Register.IEUADDR:
            return _read_event(queue.completion, offset - Register.IECTL)
        return self.words.get(offset, 0) & _READABLE.get(offset, U32)

    def _read_record(self, offset: int) -> int:
        """A doubleword of a fault recording register; 0 once F is clear."""
        record = self._iommu.log.records[offset // RECORD_SIZE]
        if record is None:
            return 0
        low, high = record.words()
        word = high | RECORD_F if offset & 8 else low
        return word >> 32 if offset & 4 else word & U32

    def _write(self, offset: int, value: int) -> None:
        iommu = self._iommu
        log, queue = iommu.log, iommu.queue
        writable = _WRITABLE.get(offset)
        if writable is not None:
            self.words[offset] = value & writable
        elif offset == Register.GCMD:
            self._command(value)
        elif offset == Register.CCMD + 4:
            self._invalidate_context(value)
        elif offset == Register.IOTLB + 4:
            self._invalidate_iotlb(value)
        elif offset == Register.FSTS:
            log.clear_status(overflow=value & STATUS_OVERFLOW != 0, queue_error=value & STATUS_QUEUE_ERROR != 0)
            queue.process()
        elif offset == Register.IQT:
            queue.set_tail((value & IQT_MASK) >> 4)
        elif offset == Register.ICS and value & ICS_IWC:
            queue.clear_completed()
        elif Register.FECTL <= offset <= Register.FEUADDR:
            _write_event(log.event, offset - Register.FECTL, value)
        elif Register.IECTL <= offset <= Register.IEUADDR:
            _write_event(queue.completion, offset - Register.IECTL, value)
        elif Register.FRCD <= offset < Register.FRCD + RECORD_SIZE * len(log.records):
            index, within = divmod(offset - Register.FRCD, RECORD_SIZE)
            if within == 12 and value & RECORD_F >> 32:
                log.clear_record(index)

    def _command(self, value: int) -> None:
        """GCMD_REG: each bit that is not one-shot sets the new state, so a clear bit switches off (10.4.4)."""
        iommu = self._iommu
        if value & GLOBAL_SRTP:
            iommu.set_root_table(self._pair(Register.RTADDR))
        queue = iommu.queue
        if value & GLOBAL_QIE and not queue.enabled:
            queue.enable(self._pair(Register.IQA))
        elif queue.enabled and not value & GLOBAL_QIE:
            queue.disable()
        iommu.enabled = value & GLOBAL_TE != 0

    def _invalidate_context(self, value: int) -> None:
        """CCMD_REG (6.5.1.1). A reserved granularity invalidates nothing, and CAIG reads 0."""
        if value & CCMD_ICC and not self._iommu.queue.enabled:
            low = self.words.get(Register.CCMD, 0)
            asked = value >> CCMD_REQUEST_SHIFT & 3
            done = perform_context(self._iommu, asked, low & 0xFFFF, low >> 16, value & 3)
            value = value & ~(CCMD_ICC | 3 << CCMD_ACTUAL_SHIFT) | (asked << CCMD_ACTUAL_SHIFT if done else 0)
        self.words[Register.CCMD + 4] = value & CCMD_READABLE_HIGH

    def _invalidate_iotlb(self, value: int) -> None:
        """IOTLB_REG (6.5.1.2), with the address in IVA_REG. IAIG reads 0 if the request was invalid."""
        if value & IOTLB_IVT and not self._iommu.queue.enabled:
            asked = value >> IOTLB_REQUEST_SHIFT & 3
            done = perform_iotlb(self._iommu, asked, value & 0xFFFF, self._pair(Register.IVA))
            value = value & ~(IOTLB_IVT | 3 << IOTLB_ACTUAL_SHIFT) | (asked << IOTLB_ACTUAL_SHIFT if done else 0)
        self.words[Register.IOTLB + 4] = value


def _read_event(event: EventMessage, offset: int) -> int:
    if offset == 0:
        return (EVENT_MASK if event.masked else 0) | (EVENT_PENDING if event.pending else 0)
    return (event.data, event.address, event.upper_address)[(offset >> 2) - 1]


def _write_event(event: EventMessage, offset: int, value: int) -> None:
    if offset == 0:
        event.set_mask(value & EVENT_MASK != 0)
    elif offset == 4:
        event.data = value
    elif offset == 8:
        event.address = value & _ADDRESS_OF_MESSAGE
    else:
        event.upper_address = value
