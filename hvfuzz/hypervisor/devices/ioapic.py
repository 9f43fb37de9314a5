"""I/O APIC: an index register selects which register the data window accesses.

As in the 82093AA (Intel data sheet, 3.1 and 3.2), with fewer pins. The redirection entries are host memory next to that
of other models, and the guest can write any index: KVM did not check it (CVE-2013-1798).
"""

from __future__ import annotations

from typing import Final

from hvfuzz.abi import device_models
from hvfuzz.hypervisor.devices.device_model import DeviceModel, Site
from hvfuzz.machine.addresses import SIZE_MASK

SELECT: Final = 0xD0
"""IOREGSEL: offset of the index register in the page (0 in the original)."""
WINDOW: Final = 0xE0
"""IOWIN: offset of the data window in the page, 32 bits (0x10 in the original)."""
PINS: Final = 8
ENTRY: Final = 8
"""Size of a redirection entry, in bytes."""
ID: Final = 0
VERSION: Final = 1
ARBITRATION: Final = 2
"""IOAPICARB: read-only, and loaded with the ID when that is written (82093AA, 3.2.3)."""
FIRST_ENTRY: Final = 0x10
"""Index of the low half of entry 0; each entry has two registers."""
VERSION_VALUE: Final = 0x11 | PINS - 1 << 16
ID_BITS: Final = 0x0F00_0000
WRITABLE: Final = 0xFF00_0000_0001_AFFF
"""Writable bits of an entry: all except delivery status, remote IRR and reserved bits (82093AA, 3.2.4)."""
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
        """Set the power-on state: every pin masked (82093AA, 3.2.4)."""
        self.select: int = 0
        self.id: int = 0
        for pin in range(PINS):
            self.host.write64(self.entries + pin * ENTRY, MASKED)

    def mmio_read(self, offset: int, size: int) -> int:
        """The low `size` bytes of a register; other offsets read as zero."""
        value = self.select if offset == SELECT else self._read() if offset == WINDOW else 0
        return value & SIZE_MASK[size]

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value`, zero-extended, to a register; writes to other offsets are ignored."""
        value &= SIZE_MASK[size]
        if offset == SELECT:
            self.select = value & 0xFF
        elif offset == WINDOW:
            self._write(value & LOW)

    def entry(self) -> int:
        """Host physical address of the selected entry; 0 if the index selects none."""
        pin = self.select - FIRST_ENTRY >> 1
        # Without this check, a guest could read and write host memory beyond the entries (CVE-2013-1798).
        return self.entries + pin * ENTRY if 0 <= pin < PINS else 0

    def _read(self) -> int:
        if self.select in (ID, ARBITRATION):
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
