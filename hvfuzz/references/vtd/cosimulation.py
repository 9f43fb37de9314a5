"""Both sides as one: memory and registers that are written on both, and compared on both.

What is written goes to our model at once and to QEMU when the commands so far are sent; what is compared is what our
model says at that point.
"""

import random
from typing import Final, NamedTuple, Self

from hvfuzz.machine.memory import PhysicalMemory
from hvfuzz.references.vtd.model import Model
from hvfuzz.references.vtd.qemu import VTD_BASE, Qemu

ALL: Final = 2**64 - 1
_NONCES: Final = 1 << 16


class Mismatch(Exception):
    """The sides do not agree: what was looked at, and what each says."""

    def __init__(self, what: str, model: str, reference: str) -> None:
        super().__init__(what, model, reference)
        self.what = what
        self.model = model
        self.reference = reference


class Check(NamedTuple):
    """Something that QEMU is asked, and what our model says."""

    what: str
    command: str
    expected: int | bytes
    mask: int = ALL
    """Bits of a register that are compared."""

    def judge(self, answer: str) -> None:
        """Raise Mismatch if the answer is not the expected one."""
        if isinstance(self.expected, bytes):
            if answer != f"0x{self.expected.hex()}":
                raise Mismatch(self.what, f"0x{self.expected.hex()}", answer)
        elif int(answer, 16) & self.mask != self.expected & self.mask:
            raise Mismatch(self.what, f"{self.expected & self.mask:#x}", f"{int(answer, 16) & self.mask:#x}")


class Cosimulation:
    """A model and a QEMU, as a context manager; `start` brings both into the same state."""

    def __init__(self, width: int, memory: PhysicalMemory) -> None:
        self.model: Final = Model(width, memory)
        self.qemu: Final = Qemu(width)
        self.commands: list[str] = []
        """Commands that QEMU has not been sent yet."""
        self._checks: list[tuple[int, Check]] = []
        self._nonces = nonces(random.Random(width))
        self._nonce = 0

    def __enter__(self) -> Self:
        self.qemu.__enter__()
        try:
            self.start()
        except BaseException:
            self.qemu.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.qemu.close()

    def start(self) -> None:
        """Bring both sides into the state that comparisons begin with."""
        raise NotImplementedError

    def check(self, register: int, size: int, mask: int = ALL) -> Check:
        """The comparison of a register as it is now."""
        what = f"register {register:#x}"
        command = f"read{'q' if size == 8 else 'l'} {VTD_BASE + register:#x}"
        return Check(what, command, self.model.iommu.registers.read(register, size), mask)

    def observe(self, register: int, size: int, mask: int = ALL) -> None:
        """Compare a register when the commands so far are sent."""
        self._later(self.check(register, size, mask))

    def observe_memory(self, hpa: int, size: int) -> None:
        """Compare bytes of memory when the commands so far are sent."""
        self._later(Check(f"memory at {hpa:#x}", f"read {hpa:#x} {size:#x}", self.model.memory.read(hpa, size)))

    def _later(self, check: Check) -> None:
        self._checks.append((len(self.commands), check))
        self.commands.append(check.command)

    def write(self, register: int, value: int, size: int) -> None:
        """Write a register of the IOMMU."""
        self.model.iommu.registers.write(register, size, value)
        self.commands.append(f"write{'q' if size == 8 else 'l'} {VTD_BASE + register:#x} {value:#x}")

    def store(self, hpa: int, value: int) -> None:
        """Write a word of memory."""
        self.model.memory.store64(hpa, value)
        self.commands.append(f"writeq {hpa:#x} {value:#x}")

    def put(self, hpa: int, data: bytes) -> None:
        """Write bytes of memory."""
        self.model.memory.write(hpa, data)
        self.commands.append(f"write {hpa:#x} {len(data):#x} 0x{data.hex()}")

    def flush(self) -> None:
        """Send the commands so far, and judge the answers."""
        commands, checks = self.commands, self._checks
        self.commands, self._checks = [], []
        answers = self.qemu.run(commands)
        for at, check in checks:
            check.judge(answers[at])

    def next_nonce(self, size: int) -> bytes:
        """Bytes that were not used lately."""
        if self._nonce + size > _NONCES:
            self._nonce = 0
        self._nonce += size
        return self._nonces[self._nonce - size : self._nonce]


def nonces(rng: random.Random) -> bytes:
    """Random bytes with bits 0 to 2 clear and others not: neither a present entry nor an interrupt that wakes."""
    return bytes(rng.choices(range(8, 256, 8), k=_NONCES))
