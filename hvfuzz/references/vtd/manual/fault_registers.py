"""Fault reporting by the manual, with one recording register and fault compression, as QEMU has (VT-d spec, 7.2.1)."""

from typing import Final

from hvfuzz.references.vtd import quirks

RECORD_VALID: Final = 1 << 63
"""F, in the high word of the fault recording register (10.4.14)."""
RECORD_READ: Final = 1 << 62
"""T1."""
NO_PASID: Final = 0xFFFF << 40
"""The field PV as QEMU fills it for a request without PASID."""
OVERFLOW, PENDING, QUEUE_ERROR = 1 << 0, 1 << 1, 1 << 4
"""PFO, PPF and IQE of FSTS_REG (10.4.9)."""
MASKED, WAITING = 1 << 31, 1 << 30
"""IM and IP of FECTL_REG (10.4.10)."""


class FaultRegisters:
    """FSTS_REG, FECTL_REG and the fault recording register."""

    def __init__(self, uses: quirks.Uses) -> None:
        self._uses: Final = uses
        self.record: tuple[int, int] | None = None
        """Low and high word; None while F is clear."""
        self._bdf = 0
        self._overflow = False
        self._queue_error = False
        self._masked = True
        self._waiting = False

    def status(self) -> int:
        """FSTS_REG."""
        return (
            (OVERFLOW if self._overflow else 0)
            | (PENDING if self.record else 0)
            | (QUEUE_ERROR if self._queue_error else 0)
        )

    def event(self) -> int:
        """FECTL_REG."""
        return (MASKED if self._masked else 0) | (WAITING if self._waiting else 0)

    def report(self, reason: int, bdf: int, iova: int, access: int, *, has_context: bool) -> None:
        """Record a fault; `has_context` means that the context entry was usable.

        While PFO is set, nothing is recorded; nor is a fault of a requester that has a record already (7.2.1).
        """
        if self._overflow or (self.record and self._bdf == bdf):
            return
        if self.record:
            self._overflow = True
            return
        quiet = not self.status()
        kind = RECORD_READ if access == 1 else 0
        absent = NO_PASID if has_context and self._uses(quirks.PASID_BITS) else 0
        self.record = iova >> 12 << 12, RECORD_VALID | kind | absent | reason << 32 | bdf
        self._bdf = bdf
        self._signal(quiet)

    def set_queue_error(self) -> None:
        """A descriptor is invalid (6.5.2.10)."""
        quiet = not self.status()
        self._queue_error = True
        self._signal(quiet)

    def clear_record(self) -> None:
        """Software clears F, and with it PPF. IP is cleared when the last field of FSTS_REG is (10.4.10)."""
        self.record = None
        if not self._uses(quirks.EVENT_PENDING):
            self._serviced()

    def write_status(self, *, overflow: bool = False, queue_error: bool = False) -> None:
        """Software writes FSTS_REG, which clears the fields for which a one is written."""
        self._overflow = self._overflow and not overflow
        self._queue_error = self._queue_error and not queue_error
        self._serviced()

    def mask(self, masked: bool) -> None:
        """Software writes IM; a waiting event is sent when it is cleared."""
        self._masked = masked
        self._waiting = self._waiting and masked

    def _signal(self, quiet: bool) -> None:
        """A field of FSTS_REG has been set; only if none was set before, that is an event."""
        if quiet and self._masked:
            self._waiting = True

    def _serviced(self) -> None:
        self._waiting = self._waiting and self.status() != 0
