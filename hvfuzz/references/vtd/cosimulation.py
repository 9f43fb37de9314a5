"""Our model and a QEMU side by side: writes go to both, and reads of both are compared.

A write changes our model at once. QEMU gets it with the next `flush`, together with all other commands since the last
one. A comparison takes the model's value when it is requested, and QEMU's at the same point of the command sequence.
"""

import random
from typing import Final, NamedTuple, Self

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.references.vtd.model import Model
from hvfuzz.references.vtd.qemu import VTD_BASE, Qemu

_NONCES: Final = 1 << 16


class Mismatch(Exception):
    """The two sides differ: in what, and the value of each."""

    def __init__(self, what: str, model: str, reference: str) -> None:
        super().__init__(what, model, reference)
        self.what = what
        self.model = model
        self.reference = reference


class Check(NamedTuple):
    """A qtest command that reads something from QEMU, and the value that our model expects."""

    what: str
    command: str
    expected: int | bytes
    mask: int = U64
    """Bits of a register that are compared."""

    def compare(self, answer: str) -> None:
        """Raise Mismatch unless QEMU's `answer` is the expected value."""
        if isinstance(self.expected, bytes):
            if answer != f"0x{self.expected.hex()}":
                raise Mismatch(self.what, f"0x{self.expected.hex()}", answer)
        elif int(answer, 16) & self.mask != self.expected & self.mask:
            raise Mismatch(self.what, f"{self.expected & self.mask:#x}", f"{int(answer, 16) & self.mask:#x}")


class Cosimulation:
    """A model and a QEMU process for one address width, as a context manager that ends the process."""

    def __init__(self, width: int, memory: PhysicalMemory) -> None:
        self.model: Final = Model(width, memory)
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

    def register_check(self, register: int, size: int, mask: int = U64) -> Check:
        """A check that QEMU's register holds what our model's register holds now."""
        what = f"register {register:#x}"
        command = f"read{'q' if size == 8 else 'l'} {VTD_BASE + register:#x}"
        return Check(what, command, self.model.iommu.registers.read(register, size), mask)

    def memory_check(self, hpa: int, size: int) -> Check:
        """A check that QEMU's memory holds what our model's memory holds now."""
        return Check(f"memory at {hpa:#x}", f"read {hpa:#x} {size:#x}", self.model.memory.read(hpa, size))

    def compare_register(self, register: int, size: int, mask: int = U64) -> None:
        """Compare a register at the next flush."""
        self._compare_later(self.register_check(register, size, mask))

    def compare_memory(self, hpa: int, size: int) -> None:
        """Compare bytes of memory at the next flush."""
        self._compare_later(self.memory_check(hpa, size))

    def _compare_later(self, check: Check) -> None:
        self._checks.append((len(self.commands), check))
        self.commands.append(check.command)

    def write_register(self, register: int, value: int, size: int) -> None:
        """Write a register of the IOMMU."""
        self.model.iommu.registers.write(register, size, value)
        self.commands.append(f"write{'q' if size == 8 else 'l'} {VTD_BASE + register:#x} {value:#x}")

    def store64(self, hpa: int, value: int) -> None:
        """Write a word of memory."""
        self.model.memory.store64(hpa, value)
        self.commands.append(f"writeq {hpa:#x} {value:#x}")

    def write_memory(self, hpa: int, data: bytes) -> None:
        """Write bytes of memory."""
        self.model.memory.write(hpa, data)
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


def nonces(rng: random.Random) -> bytes:
    """Random nonzero bytes with bits 0 to 2 clear.

    Read as a table entry they are not present, and read as interrupt data they wake no processor.
    """
    return bytes(rng.choices(range(8, 256, 8), k=_NONCES))
