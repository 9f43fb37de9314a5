"""Floppy disk controller: commands, parameters, data and results pass through one bounded FIFO.

A subset of the 82077AA (Intel data sheet, chapters 2 and 5): what a driver uses before it finds a disk. No disk is ever
present. The FIFO is host memory next to that of other models: QEMU wrote beyond its end (CVE-2015-3456).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from hvfuzz.abi import device_models
from hvfuzz.hypervisor.devices.device_model import DeviceModel, Site


class Register(IntEnum):
    """Port offsets; other ports read as zero and ignore writes."""

    DOR = 2
    """Digital output: while bit 2 is clear the controller is held in reset."""
    MSR = 4
    """Main status. Read only."""
    DATA = 5
    """The FIFO."""


class Phase(IntEnum):
    """Phase of a command: what the next byte is (82077AA, 5.1)."""

    COMMAND = 0
    """A command or one of its parameters."""
    DATA = 1
    RESULT = 2


SIZE: Final = 32
"""Size of the FIFO, in bytes."""
DOR_RUN: Final = 0x04
DOR_POWER_ON: Final = 0x0C
MSR_READY: Final = 0x80
MSR_TO_HOST: Final = 0x40
MSR_BUSY: Final = 0x10
SPECIFY: Final = 0x03
SENSE_INTERRUPT: Final = 0x08
SEEK: Final = 0x0F
VERSION: Final = 0x10
WRITE_DATA: Final = 0x45
READ_ID: Final = 0x4A
DRIVE_SPECIFICATION: Final = 0x8E
PARAMETERS: Final[Mapping[int, int]] = MappingProxyType(
    {SPECIFY: 2, SENSE_INTERRUPT: 0, SEEK: 2, VERSION: 0, WRITE_DATA: 8, READ_ID: 1}
)
"""Number of parameter bytes of each command; those of DRIVE_SPECIFICATION end with one that has DONE set."""
DONE: Final = 0x80
INVALID: Final = 0x80
SEEK_END: Final = 0x20
NOT_READY: Final = 0x48
"""ST0: abnormal termination, drive not ready."""
ENHANCED: Final = 0x90


class Fifo(DeviceModel):
    """One controller. `buffer` is the host physical address of the SIZE bytes of its FIFO."""

    __slots__ = ("buffer", "cylinder", "dor", "host", "length", "phase", "position")

    placement = device_models.FDC
    memory = SIZE

    def __init__(self, site: Site) -> None:
        self.host = site.host
        self.buffer = site.memory
        super().__init__(site)

    def reset(self) -> None:
        """Set the controller to its power-on state, with a zeroed FIFO."""
        self.dor: int = DOR_POWER_ON
        self.cylinder: int = 0
        self.phase: Phase = Phase.COMMAND
        self.position: int = 0
        """FIFO index of the next byte."""
        self.length: int = 0
        """Size of the current result, in bytes."""
        self.host.write(self.buffer, bytes(SIZE))

    def port_read(self, offset: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes reads that many 8-bit registers."""
        value = 0
        for at in range(size):
            value |= self._read(offset + at) << (at << 3)
        return value

    def port_write(self, offset: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes writes that many 8-bit registers."""
        for at in range(size):
            self._write(offset + at, value >> (at << 3) & 0xFF)

    def _read(self, register: int) -> int:
        if register == Register.DOR:
            return self.dor
        if register == Register.MSR:
            return self._status()
        if register != Register.DATA or self.phase is not Phase.RESULT:
            return 0
        byte = self.host.read(self.buffer + self.position, 1)[0]
        self.position += 1
        if self.position >= self.length:
            self._begin(Phase.COMMAND)
        return byte

    def _status(self) -> int:
        if not self.dor & DOR_RUN:
            return 0
        busy = MSR_BUSY if self.phase is not Phase.COMMAND or self.position else 0
        return MSR_READY | busy | (MSR_TO_HOST if self.phase is Phase.RESULT else 0)

    def _write(self, register: int, byte: int) -> None:
        if register == Register.DOR:
            self.dor = byte
            if not byte & DOR_RUN:
                self._begin(Phase.COMMAND)
        elif register == Register.DATA and self.dor & DOR_RUN and self.phase is not Phase.RESULT:
            self.put(byte)
            if self.phase is Phase.DATA:
                if self.position == SIZE:
                    self._give(bytes((NOT_READY, 0, 0, self.cylinder, 0, 0, 2)))
            elif self._complete(byte):
                self._execute()

    def put(self, byte: int) -> None:
        """Append a byte to the FIFO; it is dropped if the FIFO is full."""
        # DRIVE_SPECIFICATION takes any number of parameters: without this check, they overrun the FIFO (CVE-2015-3456).
        if self.position < SIZE:
            self.host.write(self.buffer + self.position, bytes((byte,)))
            self.position += 1

    def _complete(self, byte: int) -> bool:
        """Whether the command has all its parameters; `byte` is the latest."""
        command = self.host.read(self.buffer, 1)[0]
        if command == DRIVE_SPECIFICATION:
            return self.position > 1 and byte & DONE != 0
        return self.position > PARAMETERS.get(command, 0)

    def _execute(self) -> None:
        """Execute the command at the start of the FIFO."""
        command, _, last = self.host.read(self.buffer, 3)
        if command in (SPECIFY, DRIVE_SPECIFICATION):
            self._begin(Phase.COMMAND)
        elif command == SEEK:
            self.cylinder = last
            self._begin(Phase.COMMAND)
        elif command == WRITE_DATA:
            self._begin(Phase.DATA)
        elif command == SENSE_INTERRUPT:
            self._give(bytes((SEEK_END, self.cylinder)))
        elif command == READ_ID:
            self._give(bytes((NOT_READY, 0, 0, self.cylinder, 0, 0, 2)))
        else:
            self._give(bytes((ENHANCED if command == VERSION else INVALID,)))

    def _begin(self, phase: Phase) -> None:
        self.phase = phase
        self.position = 0

    def _give(self, result: bytes) -> None:
        self.host.write(self.buffer, result)
        self.length = len(result)
        self._begin(Phase.RESULT)
