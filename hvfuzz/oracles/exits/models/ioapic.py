"""Second model of the I/O APIC (82093AA data sheet, 3.1 and 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import SIZE_MASK
from hvfuzz.oracles.exits.models.second_model import SecondModel

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock

SELECT, WINDOW = 0xD0, 0xE0
PINS: Final = 8
FIRST: Final = 0x10
"""Index of the low half of entry 0."""
READ_ONLY: Final = 0x00FF_FFFF_FFFE_5000
"""Bits of a redirection entry that writes do not change (82093AA, 3.2.4)."""


class Interrupts(SecondModel):
    """An I/O APIC with eight pins."""

    __slots__ = ("arbitration", "entries", "id", "select")

    name = "ioapic"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.select = 0
        self.id = 0
        self.arbitration = 0
        """What register 2 shows: the ID that was written last."""
        self.entries = [1 << 16] * PINS

    def read(self, offset: int) -> int:
        """Read the 32-bit register at `offset`."""
        if offset != WINDOW:
            return self.select if offset == SELECT else 0
        if self.select < 3:
            return (self.id, 0x11 | PINS - 1 << 16, self.arbitration)[self.select]
        if not FIRST <= self.select < FIRST + 2 * PINS:
            return 0
        pin, half = divmod(self.select - FIRST, 2)
        return self.entries[pin] >> 32 * half & 0xFFFF_FFFF

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at `offset`."""
        if offset == SELECT:
            self.select = value & 0xFF
        elif offset == WINDOW and self.select == 0:
            self.id = self.arbitration = value & 0x0F00_0000
        elif offset == WINDOW and FIRST <= self.select < FIRST + 2 * PINS:
            pin, half = divmod(self.select - FIRST, 2)
            written = 0xFFFF_FFFF << 32 * half & ~READ_ONLY
            self.entries[pin] = self.entries[pin] & ~written | value << 32 * half & written

    def mmio_read(self, offset: int, width: int) -> int:
        """The low `width` bytes of a register."""
        return self.read(offset) & SIZE_MASK[width]

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Write the low 32 bits of `value`; the rest is dropped."""
        self.write(offset, value & 0xFFFF_FFFF)

    def memory(self) -> bytes:
        """The redirection entries, as the hypervisor must keep them."""
        return b"".join(entry.to_bytes(8, "little") for entry in self.entries)

    def difference(self, subject: Any) -> str:
        """Compare the index register and the ID."""
        registers = [subject.select, subject.id]
        return "" if registers == [self.select, self.id] else f"index and ID are {registers}"
