"""What running a program showed: one outcome an op, in numbers alone, so that two runs compare exactly."""

import hashlib
from enum import IntEnum
from typing import NamedTuple


class Result(IntEnum):
    """How an op ended, as its guest saw it."""

    OK = 0
    FAULT = 1
    """The guest got an exception: `status` is the vector, `result` the error code."""
    SKIPPED = 2
    """No such vCPU, it waits, or the op's precondition does not hold."""
    HOST_DOWN = 3
    """The host stopped in this op; nothing ran after it."""


class Outcome(NamedTuple):
    """The outcome of one op (or of an op performed as a race, or batched).

    `op` is the index of the op in the program (of the raced op for a race). `status` is a hypercall's status, a
    fault's vector, else 0; `result` a hypercall's result, the value that a load or an input saw, a fault's error code.
    `cycles` is the virtual clock after the op.
    """

    op: int
    code: int
    how: int
    status: int
    result: int
    cycles: int


class Trace:
    """The outcomes of one run in the order of execution."""

    __slots__ = ("final", "outcomes", "stopped")

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.final: str = ""
        """Digest of the machine's memory at the end, where the target was asked for it."""
        self.stopped: str = ""
        """Why the run ended before the program's last op; empty if it did not."""

    def digest(self) -> str:
        """SHA-256 over everything in the trace: equal digests mean equal runs."""
        text = "\n".join(",".join(map(str, outcome)) for outcome in self.outcomes)
        return hashlib.sha256(f"{text}\n{self.final}\n{self.stopped}".encode()).hexdigest()
