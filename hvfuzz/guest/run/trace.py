"""The trace of a run: one outcome per op, in numbers only, so that two runs can be compared exactly."""

import hashlib
from enum import IntEnum
from typing import NamedTuple


class Result(IntEnum):
    """How an op ended, as seen by its guest."""

    OK = 0
    FAULT = 1
    """An exception was delivered to the guest: `status` is the vector, `result` the error code."""
    SKIPPED = 2
    """Not performed: the vCPU does not exist or waits, or the op's precondition does not hold."""
    HOST_DOWN = 3
    """The host stopped in this op; later ops did not run."""


class Outcome(NamedTuple):
    """The outcome of one op, of an op performed as a race, or of a batched op.

    `op` is the index of the op in the program (of the raced op for a race), `code` its opcode, `how` a Result.
    `status` is the status of a hypercall or the vector of a fault, else 0. `result` is the result of a hypercall, the
    value that an instruction read, or the error code of a fault. `cycles` is the virtual clock after the op.
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
        """Digest of the machine's memory after the run; empty unless the target was asked for it."""
        self.stopped: str = ""
        """Why the run ended before the last op; empty if it did not."""

    def digest(self) -> str:
        """SHA-256 over everything in the trace: equal digests mean equal runs."""
        text = "\n".join(",".join(map(str, outcome)) for outcome in self.outcomes)
        return hashlib.sha256(f"{text}\n{self.final}\n{self.stopped}".encode()).hexdigest()
