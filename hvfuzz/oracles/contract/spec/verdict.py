"""The input and output of the rules: a call, what was observed of it, and what the specification expects.

A rule reads the state and changes nothing. It returns the `Status` with which the call must be refused, or an `Accept`
with everything that must be observed and the effect on the state. A rule states where the ABI allows more than one
outcome: `Accept.tables` says whether the number of table pages may change, and so whether NO_POOL is allowed; see
`evidence` for FAULT.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple

from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import Hfn

Bytes = tuple[int, bytes]
"""Guest memory that a call copied: (gva, bytes)."""
Leads = Callable[[int, int, int], bool]
"""Whether the guest's own translations allow an access: (gva, size, access)."""
Touch = tuple[bool, int, int]
"""Bytes moved from or to a frame: (whether written, hpa, size)."""
Range = tuple[int, int]
"""(gva, size)"""
NOT_DENIED: Final = -1
POOL_NEED: Final = 4
"""No call needs more table pages. A call of a domain that has as many must not be refused with NO_POOL."""


class Call(NamedTuple):
    """One hypercall that passed dispatch.

    `args` has the fields of the argument struct (`from` is called `from_`). `fetched` is the guest memory that the
    call read after its struct, in order. `cycles` and `version` are the clock and the domain's version at entry.
    """

    name: str
    caller: int
    vcpu: int
    args: Any
    fetched: tuple[Bytes, ...] = ()
    cycles: int = 0
    version: int = 2


class Nested(NamedTuple):
    """A call made by a multicall, including those that dispatch refused."""

    number: int
    status: int
    result: int


class Observed(NamedTuple):
    """The outcome of a call, as observed at its end.

    `written`: guest memory that the call wrote, without that of nested calls.
    `fresh`: the frames that it took from the free ones, each 4 KiB of a larger block, in the order of the guest frames
    that they are for. The page of a new event bucket is one of them.
    `pool`: number of free table pages of the caller at the end; None if unknown.
    `cycles`: the clock at the end.
    `nested`: the calls made by a multicall.
    `touched`: bytes read and written in frames, in order, without a guest virtual address: by a device, or from frame
    to frame. `garbled`: a copy from frame to frame wrote other bytes than it read.
    `leads`: whether the guest's own translations allow an access at the end; None if unknown.
    `shut`: the range that the call must write was not writable when the call began.
    `denied`: which of the call's requests for memory the machine has fail, counted from 0 in frames, blocks and table
    pages; NOT_DENIED if none.
    """

    status: int
    result: int = 0
    written: tuple[Bytes, ...] = ()
    fresh: tuple[Hfn, ...] = ()
    pool: int | None = None
    cycles: int = 0
    nested: tuple[Nested, ...] = ()
    touched: tuple[Touch, ...] = ()
    garbled: bool = False
    leads: Leads | None = None
    shut: bool = False
    denied: int = NOT_DENIED


class Mismatch(NamedTuple):
    """An observation that the ABI does not allow.

    `rule` is status, result, fetched, written, moved, fresh, pool, nested, time or change.
    """

    rule: str
    operation: str
    message: str


class Tables(IntEnum):
    """How a call may change the number of free table pages of its domain."""

    UNTOUCHED = 0
    RETURNED = 1
    """Empty tables may return to the pool."""
    NEEDED = 2
    """New levels and splits take up to POOL_NEED pages, or NO_POOL refuses the call. Pages may also return."""


Effect = Callable[[tuple[Hfn, ...]], None]
"""Applies a call's effect to the state; takes the fresh frames."""


class Accept(NamedTuple):
    """The call succeeds, with this result and effect. `fresh` counts frames; `order` is the size of fresh blocks."""

    result: int = 0
    effect: Effect | None = None
    fresh: int = 0
    order: int = 0
    tables: Tables = Tables.UNTOUCHED
    payer: int | None = None
    """The domain whose pool gives and takes table pages, if that is not the caller."""
    written: Bytes | None = None
    losable: bool = False
    """The effect may make the range of `written` inaccessible; then nothing is written."""
    moved: tuple[Touch, ...] = ()
    """The bytes that are moved between frames."""


DONE: Final = Accept()
"""The call succeeds, with result 0 and without an effect."""
Expected = Status | Accept | Mismatch
"""What a rule returns. A Mismatch is for an observation that only the rule itself can judge."""


def move(source: int, dest: int, size: int) -> tuple[Touch, Touch]:
    """The observation of a copy of `size` bytes between two host physical addresses, each within one page."""
    return (False, source, size), (True, dest, size)
