"""Second model of the coalesced MMIO window: four registers, which only writes that cannot be queued change (ABI.md).

`coalesced_ring` models the ring in guest memory; `register_accesses` knows which writes were queued.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import SIZE_MASK
from hvfuzz.oracles.exits.models.second_model import SecondModel

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock

SIZE: Final = 32
"""Bytes of the registers, from offset 0 of the page on."""


class QueueWindow(SecondModel):
    """The window of one domain."""

    __slots__ = ("data",)

    name = "coalesced"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.data = bytes(SIZE)

    def mmio_read(self, offset: int, width: int) -> int:
        """The bytes at `offset`; zero beyond the registers."""
        return int.from_bytes(self.data[offset : offset + width], "little") & SIZE_MASK[width]

    def write(self, offset: int, width: int, value: int) -> None:
        """Perform a write that was not queued."""
        if offset < SIZE:
            self.data = self.data[:offset] + value.to_bytes(width, "little") + self.data[offset + width :]

    def difference(self, subject: Any) -> str:
        """Compare the registers."""
        words = [int.from_bytes(self.data[at : at + 8], "little") for at in range(0, SIZE, 8)]
        return "" if list(subject.registers) == words else f"registers are {subject.registers}, expected {words}"
