"""Base class of devices on the bus: 8-byte registers in an MMIO page, and DMA within one page at a time."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hvfuzz.machine.addresses import READ, SIZE_MASK, U64, WRITE
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.devices.register_windows import read_registers, write_registers
from hvfuzz.machine.physical_memory import BusError, PhysicalMemory
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.machine.vtd.legacy_mode import INTERRUPT_RANGE

ACCESS_SIZES: Final = (1, 2, 4, 8)
"""Sizes of a register access in bytes; it must be naturally aligned."""


class Bus(Protocol):
    """The parts of the machine that a device uses."""

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
        """Called before each access to memory: (device, hpa, size in bytes, READ or WRITE)."""


class Device:
    """A PCI function. `bdf` is its requester id, by which the IOMMU identifies it.

    A subclass implements its registers by `read_register`, `write_register` and `reset`. DMA can also reach registers,
    of this device and of others, if the IOMMU allows it (`register_windows`).
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
        """The register file: the visible registers, and internal state."""
        self.private = bytearray()
        """The device's internal memory."""
        self.busy: bool = False
        """A write to its registers is in progress. Meanwhile other accesses get no answer: reads give ones, and writes
        are lost."""

    def mmio_read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset` of the window; 0 if the access is not aligned or there is no register."""
        if size not in ACCESS_SIZES or offset & (size - 1) or offset < 0:
            return 0
        value = U64 if self.busy else self.read_register(offset & ~7)
        return value >> ((offset & 7) << 3) & SIZE_MASK[size]

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `offset`; the other bytes of the register keep the value they read.

        Ignored if the access is not aligned or there is no register. All effects complete before it returns.
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

    def wake(self) -> None:
        """Act without a write to a register, as an engine that wakes up by itself; not while a write is in progress."""
        if self.busy:
            return
        self.busy = True
        try:
            self.act()
        finally:
            self.busy = False

    def act(self) -> None:
        """Do once what is programmed into the registers."""
        raise NotImplementedError

    def read_register(self, register: int) -> int:
        """The value of the register at this offset; 0 if there is none. Reading has no side effect."""
        raise NotImplementedError

    def write_register(self, register: int, value: int) -> None:
        """Write a 64-bit value to the register at this offset, with all its effects; ignored if there is none."""
        raise NotImplementedError

    def reset(self) -> None:
        """Return to the power-on state; no data of the previous user remains."""
        raise NotImplementedError

    def dma_read(self, iova: int, size: int) -> bytes:
        """Read `size` bytes at `iova`, within one page, from memory or registers; ones if neither answers.

        Raises DmaFault if the IOMMU blocks it.
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
        """Write `data` to `iova`, within one page, to memory or registers; lost if neither answers.

        Raises DmaFault if the IOMMU blocks it.
        """
        hpa = self.iommu.translate(self.bdf, iova, WRITE)
        size = len(data)
        self.clock.cycles += Cost.COPY_PER_64B * (size + 63 >> 6)
        if hpa >> 20 == INTERRUPT_RANGE:
            return  # An interrupt message (VT-d spec, 3.14). Interrupts are not modelled.
        observer = self.machine.access_observer
        if observer is not None:
            observer(self, hpa, size, WRITE)
        try:
            self.memory.write(hpa, data)
        except BusError:
            write_registers(self.machine, hpa, data)
