"""The I/O APIC of a domain: an index register selects which of its registers the window shows.

As the 82093AA has it (Intel datasheet, 3.1 and 3.2), with fewer pins. The redirection entries are host memory between
that of other domains' models, and the index is whatever a guest wrote: CVE-2013-1798 did not look at it.
"""

from __future__ import annotations

from typing import Final

from hvfuzz.abi import device_models
from hvfuzz.hypervisor.devices.device_model import DeviceModel, Site
from hvfuzz.machine.addresses import SIZE_MASK

SELECT: Final = 0xD0
"""IOREGSEL: offset of the index register in the page (0 in the original)."""
WINDOW: Final = 0xE0
"""IOWIN: the register that is selected, 32 bits (0x10 in the original)."""
PINS: Final = 8
ENTRY: Final = 8
"""Bytes of a redirection entry."""
ID: Final = 0
VERSION: Final = 1
FIRST_ENTRY: Final = 0x10
"""Index of the lower half of entry 0; two registers for each entry."""
VERSION_VALUE: Final = 0x11 | PINS - 1 << 16
ID_BITS: Final = 0x0F00_0000
WRITABLE: Final = 0xFF00_0000_0001_AFFF
"""Of an entry: all but delivery status, remote IRR and what is reserved."""
MASKED: Final = 1 << 16
LOW: Final = 0xFFFF_FFFF


class IoApic(DeviceModel):
    """One I/O APIC. `entries` is the host physical address of its PINS redirection entries."""

    __slots__ = ("entries", "host", "id", "select")

    placement = device_models.IOAPIC
    memory = PINS * ENTRY

    def __init__(self, site: Site) -> None:
        self.host = site.host
        self.entries = site.memory
        super().__init__(site)

    def reset(self) -> None:
        """Bring it into the state after power-on: every pin masked (82093AA, 3.2.4)."""
        self.select: int = 0
        self.id: int = 0
        for pin in range(PINS):
            self.host.write64(self.entries + pin * ENTRY, MASKED)

    def mmio_read(self, offset: int, size: int) -> int:
        """The low `size` bytes of a register; 0 where none is."""
        value = self.select if offset == SELECT else self._read() if offset == WINDOW else 0
        return value & SIZE_MASK[size]

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write a register, `size` bytes of `value` extended by zeros; ignored where none is."""
        value &= SIZE_MASK[size]
        if offset == SELECT:
            self.select = value & 0xFF
        elif offset == WINDOW:
            self._write(value & LOW)

    def entry(self) -> int:
        """Host physical address of the entry that is selected, 0 if none is."""
        pin = self.select - FIRST_ENTRY >> 1
        return self.entries + pin * ENTRY if 0 <= pin < PINS else 0

    def _read(self) -> int:
        if self.select == ID:
            return self.id
        if self.select == VERSION:
            return VERSION_VALUE
        address = self.entry()
        if not address:
            return 0
        return self.host.read64(address) >> (self.select & 1) * 32 & LOW

    def _write(self, value: int) -> None:
        if self.select == ID:
            self.id = value & ID_BITS
            return
        address = self.entry()
        if address:
            shift = (self.select & 1) * 32
            kept = self.host.read64(address) & ~(WRITABLE & LOW << shift)
            self.host.write64(address, kept | WRITABLE & value << shift)
