"""Where the registers of devices are on the bus: a page for each device, above memory, which DMA reaches as well.

The IOMMU says where a request goes, and that may be here: with a table that names the page, or in pass-through, or
while translation is off. So a device can program another one, as peer-to-peer DMA does, or itself, which is how
re-entrancy bugs happen in device models. As in QEMU (`mem_reentrancy_guard`), a device that is busy, with an access to
its registers and whatever that sets off, does not answer: see `Device.busy`. Each device is in a chain of accesses once
at most, so every chain ends.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeVar

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT

REGISTERS_BASE: Final = 0xFEB0_0000
"""Hpa of the registers of device 0; each further device has the next page."""
REGISTERS_LIMIT: Final = 0xFEC0_0000
"""Where the pages end: interrupt controllers are above."""
WIDEST: Final = 8
"""Bytes of the widest access that a register takes."""


class RegisterWindow(Protocol):
    """A device as an access to its registers sees it."""

    def mmio_read(self, offset: int, size: int) -> int: ...

    def mmio_write(self, offset: int, size: int, value: int) -> None: ...


WindowT_co = TypeVar("WindowT_co", bound=RegisterWindow, covariant=True)


class DeviceBus(Protocol[WindowT_co]):
    """A bus with numbered devices."""

    @property
    def devices(self) -> Sequence[WindowT_co]: ...


def registers_of(number: int) -> int:
    """Hpa of the registers of device `number`."""
    return REGISTERS_BASE + (number << PAGE_SHIFT)


def device_at(bus: DeviceBus[WindowT_co], hpa: int) -> WindowT_co | None:
    """The device whose registers are at `hpa`."""
    number = hpa - REGISTERS_BASE >> PAGE_SHIFT
    devices = bus.devices
    return devices[number] if 0 <= number < len(devices) else None


def aligned_accesses(offset: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of the naturally aligned accesses, of at most 8 bytes, that a transfer is made of, in order."""
    end = offset + size
    while offset < end:
        width = min(offset & -offset or WIDEST, WIDEST)
        while width > end - offset:
            width >>= 1
        yield offset, width
        offset += width


def read_registers(bus: DeviceBus[RegisterWindow], hpa: int, size: int) -> bytes:
    """What DMA reads at `hpa`, within one page; ones where nothing answers."""
    device = device_at(bus, hpa)
    if device is None:
        return b"\xff" * size
    return b"".join(
        device.mmio_read(offset, width).to_bytes(width, "little")
        for offset, width in aligned_accesses(hpa & PAGE_MASK, size)
    )


def write_registers(bus: DeviceBus[RegisterWindow], hpa: int, data: bytes) -> None:
    """What DMA writes at `hpa`, within one page; lost where nothing answers."""
    device = device_at(bus, hpa)
    if device is not None:
        start = hpa & PAGE_MASK
        for offset, width in aligned_accesses(start, len(data)):
            at = offset - start
            device.mmio_write(offset, width, int.from_bytes(data[at : at + width], "little"))
