"""A QEMU process with an Intel IOMMU and two edu devices, driven by qtest commands over a socket pair.

The processor halts at once, so only commands make anything happen. The socket, the firmware and the error output are
file descriptors without a name in the file system, so no file can be left behind.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import Final, Self

from hvfuzz.references.reference import ReferenceError, find_program

PROGRAM: Final = "qemu-system-x86_64"
PACKAGE: Final = "qemu-system-x86"
MEMORY: Final = 2 << 30
"""Bytes of RAM: all below the PCI hole, and enough for two 1 GiB pages."""
VTD_BASE: Final = 0xFED9_0000
DEVICES: Final = (4 << 3, 5 << 3)
"""Requester ids of the edu devices: 00:04.0 and 00:05.0."""
EDU_IDENTITY: Final = 0x010000ED
EDU_BUFFER: Final = 0x40000
"""Start address of a device's internal buffer, as its DMA registers name it."""
EDU_SOURCE, EDU_DESTINATION, EDU_COUNT, EDU_COMMAND = 0x80, 0x88, 0x90, 0x98
EDU_RUN: Final = 1
EDU_TO_MEMORY: Final = 2

_FIRMWARE_SIZE: Final = 1 << 16
_RESET_VECTOR: Final = 0xFFF0
_HALT: Final = bytes([0xFA, 0xF4, 0xEB, 0xFD])
"""cli; hlt; jmp to the hlt."""
_BATCH: Final = 200
"""Commands sent before their answers are read; all the answers must fit into the socket's buffer."""
_HANG: Final = 600.0
"""Seconds without an answer, or without the end of a DMA, that are a hang on however busy a machine."""


class Qemu:
    """A running QEMU, as a context manager. Raises ReferenceError if it is not installed, dies or does not answer.

    `width` is the guest and host address width of the IOMMU: 39 or 48.
    """

    def __init__(self, width: int) -> None:
        path = find_program(PROGRAM, PACKAGE)
        firmware = os.memfd_create("firmware")
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._socket.settimeout(_HANG)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._answers = b""
        try:
            os.write(firmware, (bytes(_RESET_VECTOR) + _HALT).ljust(_FIRMWARE_SIZE, b"\xf4"))
            self._process = subprocess.Popen(
                [*_die_with_parent(), path, *_arguments(width, firmware, theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(firmware, theirs.fileno()),
                start_new_session=True,  # Ctrl-C must reach this process only, which then ends QEMU
            )
        except BaseException:
            self._errors.close()
            ours.close()
            raise
        finally:
            os.close(firmware)
            theirs.close()

    def __enter__(self) -> Self:
        try:
            for number in range(len(DEVICES)):
                self._plug_in(number)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def run(self, commands: Sequence[str]) -> list[str]:
        """Send qtest commands; returns the answer of each, without its "OK"."""
        answers: list[str] = []
        for start in range(0, len(commands), _BATCH):
            batch = commands[start : start + _BATCH]
            try:
                self._socket.sendall(("\n".join(batch) + "\n").encode())
                lines = self._receive(len(batch))
            except OSError as error:
                raise ReferenceError(f"{PROGRAM} {self._fate(error)}") from None
            for command, line in zip(batch, lines, strict=True):
                if not line.startswith("OK"):
                    raise ReferenceError(f"{PROGRAM} refuses {command[:60]!r}: {line}")
                answers.append(line[3:])
        return answers

    def dma(self, number: int, buffer: int, address: int, size: int, *, to_memory: bool) -> list[str]:
        """The commands that start a DMA of device `number` between offset `buffer` in its buffer and `address`."""
        base = edu_base(number)
        ends = (EDU_BUFFER + buffer, address)
        source, destination = ends if to_memory else ends[::-1]
        return [
            f"writeq {base + EDU_SOURCE:#x} {source:#x}",
            f"writeq {base + EDU_DESTINATION:#x} {destination:#x}",
            f"writeq {base + EDU_COUNT:#x} {size:#x}",
            f"writeq {base + EDU_COMMAND:#x} {EDU_RUN | (EDU_TO_MEMORY if to_memory else 0):#x}",
        ]

    def finish(self, number: int, observe: Sequence[str]) -> list[str]:
        """Wait for the end of the DMA of device `number`; returns the answers of the commands `observe` after it."""
        status = f"readq {edu_base(number) + EDU_COMMAND:#x}"
        deadline = time.monotonic() + _HANG
        while time.monotonic() < deadline:
            answers = self.run([status, *observe])
            if not int(answers[0], 16) & EDU_RUN:
                return answers[1:]
        raise ReferenceError(f"{PROGRAM} hangs: a DMA of the edu device does not end within {_HANG / 60:.0f} minutes")

    def _receive(self, count: int) -> list[str]:
        while self._answers.count(b"\n") < count:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("closed the connection")
            self._answers += data
        *lines, self._answers = self._answers.split(b"\n", count)
        return [line.decode() for line in lines]

    def _fate(self, error: OSError) -> str:
        """What happened to the process, as the end of a one-line message."""
        if isinstance(error, TimeoutError):
            return f"hangs: it does not answer within {_HANG / 60:.0f} minutes"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_HANG)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with status {self._process.poll()}" + (f": {lines[-1]}" if lines else "")

    def _plug_in(self, number: int) -> None:
        """Assign the device's register window, and enable memory access and bus mastering."""
        config = 1 << 31 | DEVICES[number] << 8
        commands = []
        for offset, value in ((0x10, edu_base(number)), (0x04, 6)):
            commands += [f"outl 0xcf8 {config | offset:#x}", f"outl 0xcfc {value:#x}"]
        answers = self.run([*commands, f"readl {edu_base(number):#x}"])
        if int(answers[-1], 16) != EDU_IDENTITY:
            raise ReferenceError(f"{PROGRAM}: no edu device at {DEVICES[number]:#x}")


def edu_base(number: int) -> int:
    """Physical address of the registers of device `number`."""
    return 0xFE00_0000 + (number << 20)


@cache
def version() -> str:
    """Name and version of the installed QEMU."""
    path = find_program(PROGRAM, PACKAGE)
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_HANG, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ReferenceError(f"{PROGRAM} does not run: {error}") from None
    return done.stdout.splitlines()[0].removesuffix(")").replace("emulator version ", "").split(" (")[0]


def _die_with_parent() -> list[str]:
    """A command prefix that makes the kernel kill QEMU when its parent dies; empty without the program setpriv."""
    path = shutil.which("setpriv")
    return [path, "--pdeathsig", "KILL"] if path is not None else []


def _arguments(width: int, firmware: int, channel: int) -> list[str]:
    devices = [f"edu,addr={bdf >> 3:02x}.0,dma_mask={2**64 - 1}" for bdf in DEVICES]
    options = {
        # With sleep=off, virtual time jumps to the next timer while the processor is halted, so a DMA takes no time.
        "-accel": ["tcg"],
        "-icount": ["shift=0,sleep=off"],
        "-machine": ["q35,memory-backend=ram,hpet=off,pit=off"],
        "-m": [f"{MEMORY >> 20}M"],
        "-bios": [f"/proc/self/fd/{firmware}"],
        "-display": ["none"],
        "-device": [f"intel-iommu,aw-bits={width},intremap=off", *devices],
        "-chardev": [f"socket,id=channel,fd={channel}"],
        "-object": [
            # Anonymous memory would come in huge pages, each cleared as a whole when a case touches a small page.
            f"memory-backend-memfd,id=ram,size={MEMORY}",
            "qtest,id=qtest,chardev=channel,log=/dev/null",
        ],
    }
    return [
        "-nodefaults",
        "-no-user-config",
        *(word for option, values in options.items() for value in values for word in (option, value)),
    ]
