"""A DMA engine: copies up to 8192 bytes from one IOVA to another, page by page."""

from enum import IntEnum
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, U64
from hvfuzz.machine.devices.pci_function import Bus, Device
from hvfuzz.machine.vtd.iommu import DmaFault


class Register(IntEnum):
    """Offsets of the 8-byte registers in the window."""

    SRC = 0x00
    """IOVA to copy from."""
    DST = 0x08
    """IOVA to copy to."""
    LENGTH = 0x10
    """Bytes to copy; writes are limited to MAX_LENGTH."""
    CONTROL = 0x18
    """Writing START performs the copy before the write completes. Reads 0."""
    STATUS = 0x20
    """Result of the last copy: DONE or ERROR; 0 before the first. Read only."""
    ERROR = 0x28
    """The IOVA at which the last copy was blocked, or 0. Read only."""
    ID = 0x30
    """DMA_ENGINE_ID. Read only."""


START: Final = 1 << 0
DONE: Final = 1 << 0
"""All bytes were copied."""
ERROR: Final = 1 << 1
"""The IOMMU blocked the copy; the pieces before were copied."""
MAX_LENGTH: Final = 8192
DMA_ENGINE_ID: Final = int.from_bytes(b"hvdma\0\0\1", "little")
_COUNT: Final = 7


class DmaEngine(Device):
    """Copies synchronously, in pieces that do not cross a page at the source or at the destination.

    Each piece is translated just before it is copied, the source first, and is written before the next is read: if a
    later piece is blocked, the earlier ones stay written. The registers cannot change during a copy, since the device
    is busy.
    """

    __slots__ = ()

    def __init__(self, machine: Bus, bdf: int, name: str) -> None:
        super().__init__(machine, bdf, name)
        self.reset()

    def reset(self) -> None:
        """Set all registers to zero, except ID."""
        self.registers[:] = [0] * _COUNT
        self.registers[Register.ID >> 3] = DMA_ENGINE_ID

    def read_register(self, register: int) -> int:
        index = register >> 3
        return self.registers[index] if index < _COUNT else 0

    def write_register(self, register: int, value: int) -> None:
        if register in (Register.SRC, Register.DST):
            self.registers[register >> 3] = value
        elif register == Register.LENGTH:
            self.registers[register >> 3] = min(value, MAX_LENGTH)
        elif register == Register.CONTROL and value & START:
            self._copy()

    def act(self) -> None:
        self._copy()

    def _copy(self) -> None:
        registers = self.registers
        source = registers[Register.SRC >> 3]
        destination = registers[Register.DST >> 3]
        left = registers[Register.LENGTH >> 3]
        status = DONE
        error = 0
        try:
            while left:
                size = min(left, PAGE_SIZE - (source & PAGE_MASK), PAGE_SIZE - (destination & PAGE_MASK))
                self.dma_write(destination, self.dma_read(source, size))
                source = source + size & U64
                destination = destination + size & U64
                left -= size
        except DmaFault as fault:
            status = ERROR
            error = fault.iova
        registers[Register.STATUS >> 3] = status
        registers[Register.ERROR >> 3] = error
