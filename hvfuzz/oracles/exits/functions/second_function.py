"""Base class of the second models of PCI functions: registers of 8 bytes in a page, and DMA as a sequence of accesses.

A model does what a register write asks for in steps: a generator that yields each access to memory before it is made,
and is sent the bytes that a read returns. So the code that runs the steps beside the device can compare the two, access
by access. An access that the IOMMU blocks is not made: it raises `Blocked` within the model.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias, TypeVar

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, SIZE_MASK, U64, WRITE
from hvfuzz.oracles.exits.functions.dma_path import INTERRUPTS
from hvfuzz.oracles.scene.device_windows import FIRST_WINDOW

if TYPE_CHECKING:
    from hvfuzz.oracles.exits.functions.dma_path import DmaPath

WIDTHS: Final = (1, 2, 4, 8)
"""Bytes of an access to registers; it must be naturally aligned (ABI.md, EPT violation)."""


class Access(NamedTuple):
    """One access by DMA, within one page. `data` is what is written, `what` names it for messages."""

    function: SecondFunction
    hpa: int
    size: int
    access: int
    data: bytes
    what: str


Result = TypeVar("Result")
Steps: TypeAlias = Generator[Access, bytes, Result]
"""Yields each access before it is made, and is sent the bytes that a read returns."""


class Blocked(Exception):
    """The IOMMU blocks the request of a function at `iova`."""

    def __init__(self, iova: int) -> None:
        super().__init__(iova)
        self.iova = iova


class Bus:
    """The functions of one machine, by number, and what lies between them and memory."""

    __slots__ = ("blocked", "functions", "memory_size", "path")

    def __init__(self, path: DmaPath, memory_size: int) -> None:
        self.path: Final = path
        self.memory_size: Final = memory_size
        self.functions: Sequence[SecondFunction] = ()
        self.blocked: int | None = None
        """The device address at which a request was blocked last, None if none was in this activity."""

    def at(self, hpa: int) -> SecondFunction | None:
        """The function whose registers are at `hpa`, or None."""
        number = hpa - FIRST_WINDOW >> PAGE_SHIFT
        return self.functions[number] if 0 <= number < len(self.functions) else None

    def read_registers(self, hpa: int, size: int) -> bytes:
        """What DMA reads beyond memory: registers, or ones where nobody answers."""
        function = self.at(hpa)
        if function is None:
            return b"\xff" * size
        offset = hpa & PAGE_MASK
        return b"".join(function.read(at, width).to_bytes(width, "little") for at, width in aligned(offset, size))


class SecondFunction:
    """The second model of one function. `registers` is its register file, `private` its internal memory."""

    kind: ClassVar[str]
    """What it is, for messages."""

    def __init__(self, bus: Bus, bdf: int, name: str, power_on: Sequence[int], private: int = 0) -> None:
        """`power_on` is the register file after a reset, `private` the number of zero bytes of internal memory."""
        self.bus: Final = bus
        self.bdf: Final = bdf
        self.name: Final = name
        self.power_on: Final = tuple(power_on)
        self.registers = list(power_on)
        self.private = bytearray(private)
        self._busy = False

    def reset(self) -> None:
        """Return to the power-on state; nothing of the last owner remains."""
        self.restore(self.power_on, bytes(len(self.private)))

    def restore(self, registers: Sequence[int], private: bytes | bytearray) -> None:
        """Return to this state, in which no write is in progress."""
        self.registers[:] = registers
        self.private[:] = private
        self._busy = False

    def read(self, offset: int, width: int) -> int:
        """A load of `width` bytes at `offset` of the window; zero if it is misaligned or no register is there.

        While a write to it is in progress, the function does not answer: the load gives ones.
        """
        if width not in WIDTHS or offset % width:
            return 0
        word = U64 if self._busy else self.word(offset // 8)
        return word >> offset % 8 * 8 & SIZE_MASK[width]

    def write(self, offset: int, width: int, value: int) -> Steps[None]:
        """A store of `width` bytes, with all that follows from it; the other bytes of the word stay as they read."""
        if self._busy or width not in WIDTHS or offset % width:
            return
        shift = offset % 8 * 8
        mask = SIZE_MASK[width] << shift
        self._busy = True
        try:
            yield from self.write_word(offset // 8, self.word(offset // 8) & ~mask | value << shift & mask)
        finally:
            self._busy = False

    def wake(self) -> Steps[None]:
        """What it does when it acts by itself; nothing while a write is in progress."""
        if self._busy:
            return
        self._busy = True
        try:
            yield from self.act()
        finally:
            self._busy = False

    def act(self) -> Steps[None]:
        """Do once what the registers ask for."""
        raise NotImplementedError

    def word(self, number: int) -> int:
        """The value of register word `number`; 0 if there is none."""
        raise NotImplementedError

    def write_word(self, number: int, value: int) -> Steps[None]:
        """Write register word `number`."""
        raise NotImplementedError

    def _translate(self, iova: int, access: int) -> int:
        hpa = self.bus.path.translate(self.bdf, iova, access)
        if hpa is None:
            self.bus.blocked = iova
            raise Blocked(iova)
        return hpa

    def load(self, iova: int, size: int, what: str) -> Steps[bytes]:
        """Read bytes within one page. Raises Blocked."""
        hpa = self._translate(iova, READ)
        if hpa >> 20 == INTERRUPTS:
            return b"\xff" * size
        return (yield Access(self, hpa, size, READ, b"", what))

    def store(self, iova: int, data: bytes, what: str) -> Steps[None]:
        """Write bytes within one page, to memory or to the registers of a function. Raises Blocked."""
        hpa = self._translate(iova, WRITE)
        if hpa >> 20 == INTERRUPTS:
            return
        yield Access(self, hpa, len(data), WRITE, data, what)
        if hpa >= self.bus.memory_size:
            function = self.bus.at(hpa)
            start = hpa & PAGE_MASK
            for at, width in aligned(start, len(data)) if function is not None else ():
                assert function is not None
                yield from function.write(at, width, int.from_bytes(data[at - start :][:width], "little"))


def aligned(offset: int, size: int) -> Iterator[tuple[int, int]]:
    """The accesses to registers that a transfer of `size` bytes becomes: (offset, width), each naturally aligned."""
    end = offset + size
    while offset < end:
        width = max(width for width in WIDTHS if not offset % width and offset + width <= end)
        yield offset, width
        offset += width


def within_pages(iova: int, size: int) -> Iterator[tuple[int, int, int]]:
    """The parts of a range that cross no page: (device address modulo 2^64, offset in the range, size)."""
    at = 0
    while at < size:
        place = iova + at & U64
        part = min(size - at, PAGE_SIZE - (place & PAGE_MASK))
        yield place, at, part
        at += part
