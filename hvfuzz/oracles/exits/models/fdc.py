"""Second model of the floppy disk controller."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hvfuzz.oracles.exits.models.second_model import SecondModel

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock

FIFO_SIZE: Final = 32
DOR, MSR, DATA = 2, 4, 5
RUN: Final = 4
PARAMETERS: Final[Mapping[int, int]] = MappingProxyType({0x03: 2, 0x08: 0, 0x0F: 2, 0x10: 0, 0x45: 8, 0x4A: 1})
"""Number of parameter bytes of each command."""
NO_RESULT: Final = (0x03, 0x0F, 0x8E)
"""Commands without a result phase."""


class Floppy(SecondModel):
    """A controller without a drive (82077AA data sheet, chapters 2 and 5)."""

    __slots__ = ("at", "cylinder", "data", "dor", "phase", "result")

    name = "fdc"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.data = bytearray(FIFO_SIZE)
        self.dor = 0x0C
        self.phase = "command"
        self.at = 0
        self.result = 0
        self.cylinder = 0

    def port_read(self, offset: int, width: int) -> int:
        """IN of `width` bytes: that many 8-bit registers."""
        return sum(self.read(offset + at) << 8 * at for at in range(width))

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT of the low `width` bytes of `value`: that many 8-bit registers."""
        for at in range(width):
            self.write(offset + at, value >> 8 * at & 0xFF)

    def read(self, register: int) -> int:
        """IN of one byte."""
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
        """OUT of one byte."""
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

    def memory(self) -> bytes:
        """The FIFO, as the hypervisor must keep it."""
        return bytes(self.data)
