"""Register windows on the bus: one page for each device, above memory. DMA reaches them, too.

A DMA request can be routed to a window by a table entry, by pass-through, or while translation is off. So a device can
program another device (peer-to-peer DMA) or itself, which causes re-entrancy bugs in device models. As in QEMU
(`mem_reentrancy_guard`), a device does not answer while a write to its registers is in progress (`Device.busy`). Each
device occurs at most once in a chain of accesses, so every chain ends.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeVar

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT

REGISTERS_BASE: Final = 0xFEB0_0000
"""Hpa of the window of device 0; each further device has the next page."""
REGISTERS_LIMIT: Final = 0xFEC0_0000
"""End of the windows; interrupt controllers are above."""
WIDEST: Final = 8
"""Bytes of the widest access to a register."""


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
    """Hpa of the window of device `number`."""
    return REGISTERS_BASE + (number << PAGE_SHIFT)


def window_at(bus: DeviceBus[WindowT_co], hpa: int) -> WindowT_co | None:
    """The device whose window `hpa` is in; None if there is none."""
    number = hpa - REGISTERS_BASE >> PAGE_SHIFT
    devices = bus.devices
    return devices[number] if 0 <= number < len(devices) else None


def aligned_accesses(offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Split a transfer into naturally aligned accesses of at most 8 bytes; yields (offset, size) in order."""
    end = offset + size
    while offset < end:
        width = min(offset & -offset or WIDEST, WIDEST)
        while width > end - offset:
            width >>= 1
        yield offset, width
        offset += width


def read_registers(bus: DeviceBus[RegisterWindow], hpa: int, size: int) -> bytes:
    """Read `size` bytes at `hpa` by DMA, within one page; ones if no device answers."""
    device = window_at(bus, hpa)
    if device is None:
        return b"\xff" * size
    return b"".join(
        device.mmio_read(offset, width).to_bytes(width, "little")
        for offset, width in aligned_accesses(hpa & PAGE_MASK, size)
    )


def write_registers(bus: DeviceBus[RegisterWindow], hpa: int, data: bytes) -> None:
    """Write `data` at `hpa` by DMA, within one page; lost if no device answers."""
    device = window_at(bus, hpa)
    if device is not None:
        start = hpa & PAGE_MASK
        for offset, width in aligned_accesses(start, len(data)):
            at = offset - start
            device.mmio_write(offset, width, int.from_bytes(data[at : at + width], "little"))
