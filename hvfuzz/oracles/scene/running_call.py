"""A running hypercall: its arguments, its copies from and to the guest, its new frames, and the calls within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvfuzz.oracles.contract.spec.verdict import NOT_DENIED

if TYPE_CHECKING:
    from hvfuzz.abi.declaration import Declaration
    from hvfuzz.machine.shortage import Shortage

NO_GVA: Final = -1
"""Sentinel: the address of a copy from or to a frame that has no guest virtual address."""
Bytes = tuple[int, bytes]
"""(gva, the bytes copied from or to it)"""
STRUCT_PIECES: Final = 2
"""Copies in which a struct is fetched: header, body."""
Touch = tuple[bool, int, int]
"""(write, hpa, size): a copy from or to a frame named by gfn, grant or device address."""


class EndedCall(NamedTuple):
    """A finished or refused call within a multicall; `number` is NO_NUMBER for an unknown number."""

    number: int
    status: int
    result: int


class RunningCall:
    """A hypercall between its start and its end.

    `declaration` is None for an unknown number, `args` is None if dispatch refused the call.
    """

    __slots__ = (
        "applied",
        "args",
        "begun",
        "cycles",
        "declaration",
        "fresh",
        "garbled",
        "mark",
        "moving",
        "nested",
        "outer",
        "reads",
        "requests",
        "shut",
        "struct",
        "tables",
        "targets",
        "touched",
        "transfers",
        "version",
        "writes",
    )

    def __init__(
        self,
        outer: RunningCall | None,
        declaration: Declaration | None,
        args: Any,
        struct: list[Bytes],
        cycles: int,
        version: int,
        requests: int = 0,
    ) -> None:
        self.outer = outer
        self.declaration = declaration
        self.args = args
        self.struct = struct
        """The argument struct as it was copied: the header, then the body."""
        self.cycles = cycles
        """The clock at its start."""
        self.version = version
        """The ABI version of the caller at its start."""
        self.requests = requests
        """Requests for memory that the machine had counted at its start (see `Shortage`)."""
        self.applied = False
        """Whether a step of it was announced."""
        self.mark = 0
        """Length of `reads` at the start of the present step."""
        self.reads: list[Bytes] = []
        """Copies from the guest, without the struct."""
        # Most calls have none of the following.
        self.writes: tuple[Bytes, ...] = ()
        """Copies to the guest."""
        self.targets: tuple[int, ...] = ()
        """Hfns of the frames that it copied to."""
        self.transfers: tuple[bytes, ...] = ()
        """Bytes copied to frames without a guest virtual address."""
        self.touched: list[Touch] = []
        """Copies without a guest virtual address, and DMA that the call started, in order."""
        self.moving = b""
        """Bytes last read from a frame without a guest virtual address: they are to be written to another one."""
        self.garbled = False
        """Whether it wrote other bytes to a frame than it had read into `moving`."""
        self.fresh: list[int] = []
        """Hfns of the frames that it allocated, in order."""
        self.tables = 0
        """Number of the table pages that it took from a pool."""
        self.nested: tuple[EndedCall, ...] = ()
        self.begun = 0
        """Number of calls that started within it."""
        self.shut = False
        """Whether the guest memory that it must write to was not writable at its start."""

    def denied(self, shortage: Shortage) -> int:
        """Which of its requests for memory the machine has fail, counted from 0; NOT_DENIED if none."""
        at = shortage.at
        return at - self.requests if at >= self.requests else NOT_DENIED

    def copied_more(self) -> bool:
        """Whether it copied anything but a header and the body that follows it; nearly all calls do not."""
        struct = self.struct
        return bool(
            self.reads
            or self.writes
            or self.transfers
            or len(struct) != STRUCT_PIECES
            or struct[0][0] + len(struct[0][1]) != struct[1][0]
        )
