"""Fault reporting of VT-d: fault recording registers, the fault status, and the event that notifies software.

blocked request -> FaultLog.record -> a recording register, or the overflow -> EventMessage -> software
bad descriptor  -> FaultLog.report_queue_error --------------------------------^
"""

from typing import Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_MASK, READ, WRITE
from hvfuzz.machine.vtd.legacy_mode import FaultReason

STATUS_OVERFLOW: Final = 1 << 0
"""FSTS_REG.PFO: a fault was lost because no register was free (10.4.9)."""
STATUS_PENDING: Final = 1 << 1
"""FSTS_REG.PPF: the logical OR of the F fields."""
STATUS_QUEUE_ERROR: Final = 1 << 4
"""FSTS_REG.IQE."""
STATUS_INDEX_SHIFT: Final = 8
"""Lowest bit of FSTS_REG.FRI."""

EVENT_MASK: Final = 1 << 31
"""FECTL_REG.IM and IECTL_REG.IM."""
EVENT_PENDING: Final = 1 << 30
"""FECTL_REG.IP and IECTL_REG.IP."""

RECORD_F: Final = 1 << 63
"""F of a fault recording register, in the high word (10.4.14)."""
RECORD_READ: Final = 1 << 62
"""T1: set for reads and for atomic requests, which read and write."""
RECORD_ATOMIC: Final = 1 << 28
"""T2: set for atomic requests."""
RECORD_REASON_SHIFT: Final = 32


class FaultRecord(NamedTuple):
    """The contents of one fault recording register (10.4.14)."""

    reason: FaultReason
    bdf: int
    page: int
    """The IOVA with bits 11..0 clear."""
    access: int
    """READ, WRITE or both."""

    def words(self) -> tuple[int, int]:
        """The low and the high word of the register, without F."""
        kind = (RECORD_READ if self.access & READ else 0) | (RECORD_ATOMIC if self.access == READ | WRITE else 0)
        return self.page, kind | self.reason << RECORD_REASON_SHIFT | self.bdf


class EventMessage:
    """An interrupt message and its mask: FECTL, FEDATA, FEADDR and FEUADDR, or the IE registers (10.4.10 ff.).

    Interrupts are not modelled; the messages are only counted.
    """

    __slots__ = ("address", "data", "masked", "pending", "sent", "upper_address")

    def __init__(self) -> None:
        self.masked: bool = True
        """IM, set at reset."""
        self.pending: bool = False
        """IP: an event waits until IM is cleared."""
        self.data: int = 0
        self.address: int = 0
        self.upper_address: int = 0
        self.sent: int = 0

    def signal(self) -> None:
        """Send the message, or keep it pending while it is masked."""
        if self.masked:
            self.pending = True
        else:
            self.sent += 1

    def set_mask(self, masked: bool) -> None:
        """Write IM; clearing it sends a pending message."""
        self.masked = masked
        if self.pending and not masked:
            self.pending = False
            self.sent += 1


class FaultLog:
    """Primary fault logging (7.2.1) in `size` recording registers, which are used in turn.

    With `compress`, a fault of a requester that already has a pending fault is not recorded, as 7.2.1 permits.
    """

    __slots__ = ("compress", "event", "first", "next", "overflow", "queue_error", "records")

    def __init__(self, size: int, *, compress: bool) -> None:
        self.records: list[FaultRecord | None] = [None] * size
        """The recording registers; None if F is clear."""
        self.next: int = 0
        """Index of the register for the next fault; internal to the hardware."""
        self.first: int = 0
        """FRI: index of the register that set PPF."""
        self.overflow: bool = False
        """PFO: no fault is recorded until software clears it."""
        self.queue_error: bool = False
        """IQE: no descriptor is fetched until software clears it."""
        self.compress: bool = compress
        self.event: EventMessage = EventMessage()

    def pending(self) -> list[FaultRecord]:
        """The recorded faults, oldest first."""
        at = self.next
        return [record for record in self.records[at:] + self.records[:at] if record is not None]

    def status(self) -> int:
        """FSTS_REG; FRI is 0 while PPF is clear."""
        status = STATUS_OVERFLOW if self.overflow else 0
        if any(self.records):
            status |= STATUS_PENDING | self.first << STATUS_INDEX_SHIFT
        return status | (STATUS_QUEUE_ERROR if self.queue_error else 0)

    def record(self, reason: FaultReason, bdf: int, iova: int, access: int) -> None:
        """Record a fault, or set PFO if no register is free (7.2.1)."""
        if self.overflow:
            return
        records = self.records
        if self.compress and any(record is not None and record.bdf == bdf for record in records):
            return
        at = self.next
        if records[at] is not None:
            self.overflow = True
            return
        before = self.status()
        records[at] = FaultRecord(reason, bdf, iova & ~PAGE_MASK, access)
        self.next = (at + 1) % len(records)
        if not before & STATUS_PENDING:
            self.first = at
        self._signal(before)

    def report_queue_error(self) -> None:
        """Set IQE."""
        before = self.status()
        self.queue_error = True
        self._signal(before)

    def clear_record(self, index: int) -> None:
        """Software clears F of one register."""
        self.records[index] = None
        self._serviced()

    def clear_status(self, *, overflow: bool = False, queue_error: bool = False) -> None:
        """Software clears PFO, IQE or both."""
        self.overflow = self.overflow and not overflow
        self.queue_error = self.queue_error and not queue_error
        self._serviced()

    def _signal(self, before: int) -> None:
        """Signal an event for a new field of the status, unless one was already set (10.4.10, IP)."""
        if not before:
            self.event.signal()

    def _serviced(self) -> None:
        """Drop a pending message once no field of the status is set (10.4.10, IP)."""
        if not self.status():
            self.event.pending = False
