"""Map of a virtio device's registers: their offsets, the status and interrupt bits, and the features of all devices."""

from enum import IntEnum
from typing import Final


class Register(IntEnum):
    """Offsets of the 8-byte registers in the window. QUEUE_SIZE to QUEUE_ENABLE belong to the selected queue."""

    ERROR = 0x28
    """The IOVA at which DMA was last blocked since the reset, or 0. Read only."""
    ID = 0x30
    """VIRTIO_ID | device id (5). Read only."""
    DEVICE_FEATURES = 0x40
    """Read only."""
    DRIVER_FEATURES = 0x48
    """Read only once FEATURES_OK is set (3.1.1)."""
    QUEUE_SELECT = 0x50
    QUEUE_SIZE = 0x58
    """A power of two up to MAX_SIZE; other values are ignored. All registers of an enabled queue are read only."""
    QUEUE_DESC = 0x60
    QUEUE_DRIVER = 0x68
    QUEUE_DEVICE = 0x70
    """The IOVAs of the descriptor table, the available ring and the used ring."""
    QUEUE_ENABLE = 0x78
    """Writing 1 enables the queue, until reset."""
    NOTIFY = 0x80
    """Writing the number of a queue serves it before the write completes. Reads 0."""
    DEVICE_STATUS = 0x88
    """Writing 0 is the reset by the driver (2.4)."""
    ISR = 0x90
    """Read only."""
    ACK = 0x98
    """Clears the bits of ISR that are written as ones. Reads 0."""
    GENERATION = 0xA0
    """Number of configuration changes by the device. Read only."""
    LOG_BASE = 0xA8
    """IOVA of the log of written pages, if LOG_ALL is negotiated: bit n is for the page at IOVA n << 12."""
    CONFIG = 0xC0
    """First word of the configuration. Read only."""


WINDOW_WORDS: Final = 26
"""Words of the register file for the window; QUEUE_WORDS for each queue follow."""
QUEUE_FIRST: Final = Register.QUEUE_SIZE >> 3
QUEUE_LAST: Final = Register.QUEUE_ENABLE >> 3
VIRTIO_ID: Final = int.from_bytes(b"\0\0\0\0virt", "little")

ACKNOWLEDGE: Final = 1
DRIVER: Final = 2
DRIVER_OK: Final = 4
FEATURES_OK: Final = 8
NEEDS_RESET: Final = 64
FAILED: Final = 128
STATUS_BITS: Final = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED
"""Bits of the device status (2.1) that a driver can set."""
ISR_QUEUE: Final = 1
ISR_CONFIG: Final = 2

LOG_ALL: Final = 1 << 26
"""VHOST_F_LOG_ALL of Linux's vhost.h."""
INDIRECT_DESC: Final = 1 << 28
EVENT_IDX: Final = 1 << 29
VERSION_1: Final = 1 << 32
COMMON_FEATURES: Final = LOG_ALL | INDIRECT_DESC | EVENT_IDX | VERSION_1
