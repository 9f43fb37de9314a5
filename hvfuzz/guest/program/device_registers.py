"""Ports, register pages and registers of the devices and device models."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from hvfuzz.abi.boot import (
    COALESCED,
    COALESCED_GFN,
    DIRECT_MAP,
    FIFO_PORT,
    IOAPIC,
    TIMER,
)
from hvfuzz.machine.addresses import PAGE_SHIFT

DEVICE_REGISTERS: Final = MappingProxyType(
    {"SRC": 0x00, "DST": 0x08, "LENGTH": 0x10, "CONTROL": 0x18, "STATUS": 0x20, "ERROR": 0x28, "ID": 0x30}
)
VIRTIO_REGISTERS: Final = MappingProxyType(
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
"""ERROR and ID lie where a DMA engine has them."""
IOAPIC_REGISTERS: Final = MappingProxyType({"IOREGSEL": 0xD0, "IOWIN": 0xE0})
TIMER_REGISTERS: Final = MappingProxyType(
    {"TIMER_PORT": 0x100, "TIMER_PERIOD": 0x108, "TIMER_DELAY": 0x110, "TIMER_EXPIRED": 0x118}
)
REGISTERS: Final = MappingProxyType({**DEVICE_REGISTERS, **VIRTIO_REGISTERS, **IOAPIC_REGISTERS, **TIMER_REGISTERS})
MODELS: Final = MappingProxyType({"IOAPIC": IOAPIC, "TIMER": TIMER, "COALESCED": COALESCED})
FIFO_EDGES: Final = (FIFO_PORT + 2, FIFO_PORT + 4, FIFO_PORT + 5, FIFO_PORT + 7)
RING: Final = DIRECT_MAP + (COALESCED_GFN << PAGE_SHIFT)
"""Where queued writes are found."""
DATA: Final = 5
"""Offset of the port of its FIFO."""
