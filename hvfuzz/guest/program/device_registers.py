"""Register pages, register offsets and I/O ports of devices and device models, as programs use them.

The only module below `hvfuzz/guest/` that holds these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hvfuzz.abi import boot
from hvfuzz.machine.addresses import PAGE_SHIFT

# Pages of the MMIO window that device models of the hypervisor answer.
IOAPIC_PAGE: Final = boot.IOAPIC
TIMER_PAGE: Final = boot.TIMER
COALESCED_PAGE: Final = boot.COALESCED
DEVICE_MODEL_PAGES: Final[Mapping[str, int]] = MappingProxyType(
    {"IOAPIC": IOAPIC_PAGE, "TIMER": TIMER_PAGE, "COALESCED": COALESCED_PAGE}
)
"""The symbols of device model pages in the text form."""
COALESCED_RING: Final = boot.DIRECT_MAP + (boot.COALESCED_GFN << PAGE_SHIFT)
"""Gva of the ring of coalesced writes: u32 first, u32 last, then the entries."""

# Register offsets in a device's page.
DMA_ENGINE_REGISTERS: Final[Mapping[str, int]] = MappingProxyType(
    {"SRC": 0x00, "DST": 0x08, "LENGTH": 0x10, "CONTROL": 0x18, "STATUS": 0x20, "ERROR": 0x28, "ID": 0x30}
)
VIRTIO_REGISTERS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "DEVICE_FEATURES": 0x40,
        "DRIVER_FEATURES": 0x48,
        "QUEUE_SELECT": 0x50,
        "QUEUE_SIZE": 0x58,
        "QUEUE_DESC": 0x60,
        "QUEUE_DRIVER": 0x68,
        "QUEUE_DEVICE": 0x70,
        "QUEUE_ENABLE": 0x78,
        "NOTIFY": 0x80,
        "DEVICE_STATUS": 0x88,
        "ISR": 0x90,
        "ACK": 0x98,
        "GENERATION": 0xA0,
        "LOG_BASE": 0xA8,
        "CONFIG": 0xC0,
    }
)
"""ERROR and ID are at the same offsets as in a DMA engine."""
IOAPIC_REGISTERS: Final[Mapping[str, int]] = MappingProxyType({"IOREGSEL": 0xD0, "IOWIN": 0xE0})
TIMER_REGISTERS: Final[Mapping[str, int]] = MappingProxyType(
    {"TIMER_PORT": 0x100, "TIMER_PERIOD": 0x108, "TIMER_DELAY": 0x110, "TIMER_EXPIRED": 0x118}
)
REGISTERS: Final[Mapping[str, int]] = MappingProxyType(
    {**DMA_ENGINE_REGISTERS, **VIRTIO_REGISTERS, **IOAPIC_REGISTERS, **TIMER_REGISTERS}
)
"""The symbols of registers in the text form."""

# I/O ports.
FLOPPY_STATUS_PORT: Final = boot.FIFO_PORT + 4
FLOPPY_DATA_PORT: Final = boot.FIFO_PORT + 5
"""The FIFO of the floppy controller."""
FLOPPY_EDGES: Final = (boot.FIFO_PORT + 2, FLOPPY_STATUS_PORT, FLOPPY_DATA_PORT, boot.FIFO_PORT + 7)
PORT_EDGES: Final = (
    *range(boot.UART_PORT, boot.UART_PORT + boot.UART_PORTS),
    *FLOPPY_EDGES,
    boot.FIFO_PORT - 1,
    0x60,
    0x80,
    0xCF8,
    0xFFFF,
)
"""Ports worth trying: the UART's, the floppy controller's and the one below, and some without a device."""
