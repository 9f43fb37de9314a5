"""What the device models of the hypervisor do: each domain has a floppy controller, an I/O APIC and a timer.

They are modelled once more, after their data sheets. The memory that the hypervisor keeps for them is compared as a
whole: what a model writes beyond its own part lands in another's, or in a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hvfuzz.abi import boot
from hvfuzz.hypervisor.core.hypervisor import FIFO, IOAPIC, MODELS, MODELS_SIZE
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE
from hvfuzz.oracles.contract.spec.platform.timer import TimerModel

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene

FIFO_SIZE: Final = 32
DOR, MSR, DATA = 2, 4, 5
RUN: Final = 4
PARAMETERS: Final[Mapping[int, int]] = MappingProxyType({0x03: 2, 0x08: 0, 0x0F: 2, 0x10: 0, 0x45: 8, 0x4A: 1})
NO_RESULT: Final = (0x03, 0x0F, 0x8E)
SELECT, WINDOW = 0xD0, 0xE0
PINS: Final = 8
FIRST: Final = 0x10
READ_ONLY: Final = 0x00FF_FFFF_FFFE_5000
"""Bits of a redirection entry that a write leaves as they are."""


class Floppy:
    """A controller without a drive."""

    __slots__ = ("at", "cylinder", "data", "dor", "phase", "result")

    def __init__(self) -> None:
        self.data = bytearray(FIFO_SIZE)
        self.dor = 0x0C
        self.phase = "command"
        self.at = 0
        self.result = 0
        self.cylinder = 0

    def port_read(self, offset: int, width: int) -> int:
        """What IN of so many bytes gives."""
        return sum(self.read(offset + at) << 8 * at for at in range(width))

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT of the low `width` bytes of `value`."""
        for at in range(width):
            self.write(offset + at, value >> 8 * at & 0xFF)

    def read(self, register: int) -> int:
        """The byte that IN gives."""
        if register == DOR:
            return self.dor
        if register == MSR:
            idle = self.phase == "command" and not self.at
            to_host = 0x40 if self.phase == "result" else 0
            return 0x80 | to_host | (0 if idle else 0x10) if self.dor & RUN else 0
        if register != DATA or self.phase != "result":
            return 0
        byte = self.data[self.at]
        self.at += 1
        if self.at == self.result:
            self._enter("command")
        return byte

    def write(self, register: int, byte: int) -> None:
        """What OUT of a byte does."""
        if register == DOR:
            self.dor = byte
            if not byte & RUN:
                self._enter("command")
        if register != DATA or not self.dor & RUN or self.phase == "result":
            return
        if self.at < FIFO_SIZE:
            self.data[self.at] = byte
            self.at += 1
        command = self.data[0]
        if self.phase == "data":
            if self.at == FIFO_SIZE:
                self._answer(0x48, 0, 0, self.cylinder, 0, 0, 2)
        elif self.at > 1 and byte & 0x80 if command == 0x8E else self.at == 1 + PARAMETERS.get(command, 0):
            if command == 0x0F:
                self.cylinder = self.data[2]
            if command in NO_RESULT:
                self._enter("command")
            elif command == 0x45:
                self._enter("data")
            elif command == 0x4A:
                self._answer(0x48, 0, 0, self.cylinder, 0, 0, 2)
            elif command == 0x08:
                self._answer(0x20, self.cylinder)
            else:
                self._answer(0x90 if command == 0x10 else 0x80)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.at = 0

    def _answer(self, *result: int) -> None:
        self.data[: len(result)] = bytes(result)
        self.result = len(result)
        self._enter("result")


class Interrupts:
    """An I/O APIC."""

    __slots__ = ("entries", "id", "select")

    def __init__(self) -> None:
        self.select = 0
        self.id = 0
        self.entries = [1 << 16] * PINS

    def read(self, offset: int) -> int:
        """The register there, 32 bits."""
        if offset != WINDOW:
            return self.select if offset == SELECT else 0
        if self.select < 2:
            return 0x11 | PINS - 1 << 16 if self.select else self.id
        if not FIRST <= self.select < FIRST + 2 * PINS:
            return 0
        pin, half = divmod(self.select - FIRST, 2)
        return self.entries[pin] >> 32 * half & 0xFFFF_FFFF

    def write(self, offset: int, value: int) -> None:
        """Write 32 bits."""
        if offset == SELECT:
            self.select = value & 0xFF
        elif offset == WINDOW and self.select == 0:
            self.id = value & 0x0F00_0000
        elif offset == WINDOW and FIRST <= self.select < FIRST + 2 * PINS:
            pin, half = divmod(self.select - FIRST, 2)
            written = 0xFFFF_FFFF << 32 * half & ~READ_ONLY
            self.entries[pin] = self.entries[pin] & ~written | value << 32 * half & written


class Models:
    """The models of all domains, and the memory that the hypervisor keeps for them."""

    def __init__(self, scene: Scene) -> None:
        bounce = scene.hypervisor.bounce
        self._first = bounce + MODELS
        self._size = PAGE_SIZE - (self._first & PAGE_MASK)
        self._read = scene.machine.memory.read
        self._base = b""
        self._floppies: list[Floppy] = []
        self._interrupts: list[Interrupts] = []
        self._timers: list[TimerModel] = []
        self._timed = False
        """A timer has been written to."""
        self._domains = scene.hypervisor.domains
        self._clock = scene.machine.clock

    def attach(self) -> None:
        """What there is beside the models' own parts stays as it is now."""
        self._base = self._read(self._first, self._size)
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        domains = len(self._domains)
        self._floppies = [Floppy() for _ in range(domains)]
        self._interrupts = [Interrupts() for _ in range(domains)]
        self._timers = [TimerModel() for _ in range(domains)]
        self._timed = False

    def exit_started(self) -> None:
        """Timers may have expired; nearly always nobody has written to one yet."""
        if self._timed:
            for timer in self._timers:
                timer.due(self._clock.cycles)

    def floppy(self, domain: int) -> Floppy:
        """The floppy controller of a domain."""
        return self._floppies[domain]

    def mmio(self, page: int, domain: int, offset: int, width: int, write: bool, value: int) -> int:
        """A register access of the model in that page: what a read gives; one that is not aligned does nothing."""
        mask = (1 << 8 * width) - 1
        if offset & width - 1:
            return 0
        timer = self._timers[domain]
        if page == boot.TIMER:
            if write:
                timer.write(offset, width, value & mask, self._clock.cycles)
                self._timed = True
            return 0 if write else timer.read(offset, width)
        if write:
            self._interrupts[domain].write(offset, value & mask & 0xFFFF_FFFF)
            return 0
        return self._interrupts[domain].read(offset) & mask

    def judge(self, report: Callable[[str, str], None]) -> None:
        """Report to `report`, with the rule, what is not as it should be."""
        wrong = self._differs()
        if wrong:
            report("model", wrong)

    def _differs(self) -> str:
        """Which register, or byte of the hypervisor's memory, is not as it should be; empty if none is."""
        for domain, interrupts, timer in zip(self._domains, self._interrupts, self._timers, strict=True):
            kept = domain.timer
            registers = [domain.ioapic.select, domain.ioapic.id, kept.port, kept.period, kept.delay, kept.expired]
            if registers != [interrupts.select, interrupts.id, *timer.values.values()]:
                return f"the I/O APIC and the timer of dom{domain.id} have {registers}"
        wanted = bytearray(self._base)
        for number, (floppy, interrupts) in enumerate(zip(self._floppies, self._interrupts, strict=True)):
            area = number * MODELS_SIZE
            wanted[area + FIFO : area + FIFO + FIFO_SIZE] = floppy.data
            entries = b"".join(entry.to_bytes(8, "little") for entry in interrupts.entries)
            wanted[area + IOAPIC : area + IOAPIC + len(entries)] = entries
        found = self._read(self._first, self._size)
        if found == wanted:
            return ""
        at = next(place for place, (is_, should) in enumerate(zip(found, wanted, strict=True)) if is_ != should)
        return f"the memory of device models is {found[at]:#x} at {at:#x}, where it should be {wanted[at]:#x}"
