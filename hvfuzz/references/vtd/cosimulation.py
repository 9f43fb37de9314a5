"""Our model and a QEMU side by side: writes go to both. Where no quirk can matter, reads of both are compared.

A write changes our model at once. QEMU gets it with the next `flush`, together with all other commands since the last
one. A comparison takes the model's value when it is requested, and QEMU's at the same point of the command sequence.
Where a quirk may matter, ours is compared with the manual, and QEMU's with the manual and the quirks.
"""

import random
from typing import Final, NamedTuple, Self

from hvfuzz.machine.clock import Clock
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.references.vtd.qemu import VTD_BASE, Qemu

IOTLB_CAPACITY: Final = 1 << 16
"""Capacity of the IOTLB; no case fills it, so neither side evicts anything."""
_NONCES: Final = 1 << 16


class Mismatch(Exception):
    """The two sides differ: in what, and the value of each."""

    def __init__(self, what: str, model: str, reference: str) -> None:
        super().__init__(what, model, reference)
        self.what = what
        self.model = model
        self.reference = reference


class Check(NamedTuple):
    """A qtest command that reads something from QEMU, and the value that is expected."""

    what: str
    command: str
    expected: int | bytes

    def compare(self, answer: str) -> None:
        """Raise Mismatch unless QEMU's `answer` is the expected value."""
        if isinstance(self.expected, bytes):
            if answer != f"0x{self.expected.hex()}":
                raise Mismatch(self.what, f"0x{self.expected.hex()}", answer)
        elif int(answer, 16) != self.expected:
            raise Mismatch(self.what, f"{self.expected:#x}", answer)


class Cosimulation:
    """A model and a QEMU process for one address width, as a context manager that ends the process."""

    def __init__(self, width: int, memory: PhysicalMemory) -> None:
        self.memory: Final = memory
        self.iommu: Final = Iommu(
            memory, Clock(), host_width=width, guest_width=width, fault_records=1, compress_faults=True
        )
        """Our model, configured as QEMU's: one fault recording register, faults compressed."""
        self.iommu.set_capacity(IOTLB_CAPACITY)
        self.qemu: Final = Qemu(width)
        self.commands: list[str] = []
        """Commands not yet sent to QEMU."""
        self._checks: list[tuple[int, Check]] = []
        """(index in `commands`, check)."""
        self._nonces = nonces(random.Random(width))
        self._nonce = 0

    def __enter__(self) -> Self:
        self.qemu.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.qemu.close()

    def compare_register(self, register: int, size: int) -> None:
        """Compare QEMU's register with ours of now, at the next flush."""
        self.expect_register(register, size, self.iommu.registers.read(register, size))

    def expect_register(self, register: int, size: int, value: int) -> None:
        """Compare QEMU's register with a value, at the next flush."""
        self.check_later(register_check(register, size, value))

    def compare_memory(self, hpa: int, size: int) -> None:
        """Compare bytes of QEMU's memory with ours of now, at the next flush."""
        self.check_later(memory_check(hpa, self.memory.read(hpa, size)))

    def check_later(self, check: Check) -> None:
        """Make a check at the next flush."""
        self._checks.append((len(self.commands), check))
        self.commands.append(check.command)

    def require(self, what: str, ours: object, manual: object) -> None:
        """Raise Mismatch unless our model shows what the manual demands."""
        if ours != manual:
            raise Mismatch(f"{what} by the manual", _text(ours), _text(manual))

    def require_register(self, register: int, size: int, manual: int) -> None:
        """Raise Mismatch unless our register has the value that the manual demands."""
        self.require(f"register {register:#x}", self.iommu.registers.read(register, size), manual)

    def write_register(self, register: int, value: int, size: int) -> None:
        """Write a register of the IOMMU."""
        self.iommu.registers.write(register, size, value)
        self.commands.append(f"write{'q' if size == 8 else 'l'} {VTD_BASE + register:#x} {value:#x}")

    def store64(self, hpa: int, value: int) -> None:
        """Write a word of memory."""
        self.memory.store64(hpa, value)
        self.commands.append(f"writeq {hpa:#x} {value:#x}")

    def write_memory(self, hpa: int, data: bytes) -> None:
        """Write bytes of memory."""
        self.memory.write(hpa, data)
        self.commands.append(f"write {hpa:#x} {len(data):#x} 0x{data.hex()}")

    def flush(self) -> None:
        """Send the commands so far, and compare the answers; raises Mismatch at the first difference."""
        commands, checks = self.commands, self._checks
        self.commands, self._checks = [], []
        answers = self.qemu.run(commands)
        for index, check in checks:
            check.compare(answers[index])

    def next_nonce(self, size: int) -> bytes:
        """Bytes that differ from those of recent calls."""
        if self._nonce + size > _NONCES:
            self._nonce = 0
        self._nonce += size
        return self._nonces[self._nonce - size : self._nonce]


def register_check(register: int, size: int, value: int) -> Check:
    """A check that QEMU's register has a value."""
    return Check(f"register {register:#x}", f"read{'q' if size == 8 else 'l'} {VTD_BASE + register:#x}", value)


def memory_check(hpa: int, data: bytes) -> Check:
    """A check that QEMU's memory holds `data`."""
    return Check(f"memory at {hpa:#x}", f"read {hpa:#x} {len(data):#x}", data)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    return f"{value:#x}" if isinstance(value, int) else str(value)


def nonces(rng: random.Random) -> bytes:
    """Random nonzero bytes with bits 0 to 2 clear.

    Read as a table entry they are not present, and read as interrupt data they wake no processor.
    """
    return bytes(rng.choices(range(8, 256, 8), k=_NONCES))
