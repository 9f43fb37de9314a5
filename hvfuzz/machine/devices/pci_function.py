"""What every device on the bus has: 8-byte registers in an MMIO page, and DMA to one page at a time."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hvfuzz.machine.addresses import READ, SIZE_MASK, U64, WRITE
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.devices.register_windows import read_registers, write_registers
from hvfuzz.machine.memory import BusError, PhysicalMemory
from hvfuzz.machine.vtd.legacy_mode import INTERRUPT_RANGE
from hvfuzz.machine.vtd.unit import Iommu

ACCESS_SIZES: Final = (1, 2, 4, 8)
"""Bytes of a register access; it must be naturally aligned."""


class Bus(Protocol):
    """What a device is plugged into: the machine, as far as a device can see it."""

    @property
    def memory(self) -> PhysicalMemory: ...

    @property
    def iommu(self) -> Iommu: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def devices(self) -> "Sequence[Device]": ...

    @property
    def access_observer(self) -> "Callable[[Device, int, int, int], None] | None":
        """Told of each physical access before it is made: (device, hpa, size, READ or WRITE)."""


class Device:
    """A PCI function: `bdf` is its requester id, which the IOMMU knows it by.

    A device class gives its registers by `read_register`, `write_register` and `reset`. DMA reaches registers, too,
    this device's own and others', where the IOMMU lets it (`windows`).
    """

    __slots__ = ("bdf", "busy", "clock", "iommu", "machine", "memory", "name", "private", "registers")

    def __init__(self, machine: Bus, bdf: int, name: str) -> None:
        self.machine = machine
        self.memory = machine.memory
        self.iommu = machine.iommu
        self.clock = machine.clock
        self.bdf: int = bdf
        self.name: str = name
        self.registers: list[int] = []
        """The words that the device keeps: what its registers show, and what works behind them."""
        self.private = bytearray()
        """The device's own memory, if it has any."""
        self.busy: bool = False
        """An access to its registers is under way. Until it is over, they do not answer to any other: reads give ones,
        and writes are lost."""

    def mmio_read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset` of the window; 0 if it is not aligned or no register is there."""
        if size not in ACCESS_SIZES or offset & (size - 1) or offset < 0:
            return 0
        value = U64 if self.busy else self.read_register(offset & ~7)
        return value >> ((offset & 7) << 3) & SIZE_MASK[size]

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `offset`; the register's other bytes stay as they read.

        Ignored if the access is not aligned or no register is there. All that the write sets off is over when it is.
        """
        if self.busy or size not in ACCESS_SIZES or offset & (size - 1) or offset < 0:
            return
        register = offset & ~7
        shift = (offset & 7) << 3
        mask = SIZE_MASK[size] << shift
        self.busy = True
        try:
            self.write_register(register, self.read_register(register) & ~mask | value << shift & mask)
        finally:
            self.busy = False

    def read_register(self, register: int) -> int:
        """The value of the register at that offset, without a side effect; 0 if there is none."""
        raise NotImplementedError

    def write_register(self, register: int, value: int) -> None:
        """Give the register a new value of 64 bits, with what that entails; ignored if there is none."""
        raise NotImplementedError

    def reset(self) -> None:
        """Bring the device into the state it is in after power-on: nothing of its former user is left."""
        raise NotImplementedError

    def dma_read(self, iova: int, size: int) -> bytes:
        """Read `size` bytes at `iova`, in one page, of memory or registers: ones where neither is.

        Raises DmaFault if blocked.
        """
        hpa = self.iommu.translate(self.bdf, iova, READ)
        self.clock.cycles += Cost.COPY_PER_64B * (size + 63 >> 6)
        if hpa >> 20 == INTERRUPT_RANGE:
            return b"\xff" * size
        observer = self.machine.access_observer
        if observer is not None:
            observer(self, hpa, size, READ)
        try:
            return self.memory.read(hpa, size)
        except BusError:
            return read_registers(self.machine, hpa, size)

    def dma_write(self, iova: int, data: bytes) -> None:
        """Write `data` to `iova`, in one page, to memory or registers: lost where neither is.

        Raises DmaFault if blocked.
        """
        hpa = self.iommu.translate(self.bdf, iova, WRITE)
        size = len(data)
        self.clock.cycles += Cost.COPY_PER_64B * (size + 63 >> 6)
        if hpa >> 20 == INTERRUPT_RANGE:
            return  # an interrupt message, which nobody takes here; it is no access to memory
        observer = self.machine.access_observer
        if observer is not None:
            observer(self, hpa, size, WRITE)
        try:
            self.memory.write(hpa, data)
        except BusError:
            write_registers(self.machine, hpa, data)
