"""A hypercall that runs: its arguments, its copies from and to the guest, its frames, and the calls within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from hvfuzz.abi.declaration import Declaration

NO_GVA: Final = -1
"""Address of a copy between frames that were validated as frames: it has none in the guest's address space."""
Bytes = tuple[int, bytes]
"""(gva, what was read there)"""
Touch = tuple[bool, int, int]
"""(write, hpa, size): bytes of frames that the contract names, by gfn, grant or device address."""


class EndedCall(NamedTuple):
    """A call within a call, when it is over, or refused by dispatch; of an unknown number, that is NO_NUMBER."""

    number: int
    status: int
    result: int


class RunningCall:
    """A hypercall between its start and its end. `declaration` is None for an unknown number.

    `args` is None if dispatch refused the call.
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
        "shut",
        "struct",
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
    ) -> None:
        self.outer = outer
        self.declaration = declaration
        self.args = args
        self.struct = struct
        """Copies of the argument struct: the header, then the body."""
        self.cycles = cycles
        """The clock when it began."""
        self.version = version
        """The version of the caller when it began."""
        self.applied = False
        """A step of it was applied, or was about to be."""
        self.mark = 0
        """Reads before its present step."""
        self.reads: list[Bytes] = []
        """What it read beyond its struct."""
        # Most calls have none of these.
        self.writes: tuple[Bytes, ...] = ()
        """What it wrote."""
        self.targets: tuple[int, ...] = ()
        """Frames that it wrote to."""
        self.transfers: tuple[bytes, ...] = ()
        """What it wrote to frames, without an address of the guest's."""
        self.touched: list[Touch] = []
        """What it, or a device that it set to work, moved between frames, in order."""
        self.moving = b""
        """What it read last from a frame, without an address of the guest's: on its way to another one."""
        self.garbled = False
        """What it wrote to a frame is not what it read from one."""
        self.fresh: list[int] = []
        """Frames that it took from the free ones, in order."""
        self.nested: tuple[EndedCall, ...] = ()
        self.begun = 0
        """Calls that began within it."""
        self.shut = False
        """Where it has to write could not be written when it began."""
