"""Registers of PCI devices, and places of device models that driver templates use.

Where each device model is, and how its registers are called, is in its `Placement` (`hvfuzz.abi.device_models`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hvfuzz.abi import boot
from hvfuzz.machine.addresses import PAGE_SHIFT

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
PCI_REGISTERS: Final[Mapping[str, int]] = MappingProxyType({**DMA_ENGINE_REGISTERS, **VIRTIO_REGISTERS})
"""The symbols of registers of PCI devices in the text form."""
FLOPPY_STATUS_PORT: Final = boot.FIFO_PORT + 4
FLOPPY_DATA_PORT: Final = boot.FIFO_PORT + 5
"""The FIFO of the floppy controller."""
OTHER_PORTS: Final = (0x60, 0x80, 0xCF8, 0xFFFF)
"""Ports of a PC at which no device model answers."""
