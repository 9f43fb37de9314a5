"""What the specification is told about a call, what it answers, and what a rule of a call is made of.

A rule only reads. It returns the `Status` with which the contract refuses the call, or an `Accept` that says
what has to be seen, and carries the effect. Where the contract leaves freedom, the rule says so:

- `Evidence.take` and `Evidence.writable`: the specification does not translate addresses, but is told by
  `Observed` where the guest's own translations lead. FAULT is allowed when they do not lead to what was not
  fetched, or to a range that must be written; if nobody says where they lead, whenever nothing was fetched, and
  from the moment when a range must be writable. It *must* be FAULT when nothing led there when the call began,
  or the range is not valid whatever is mapped: it wraps, is not canonical, or touches the hypervisor's hole.
- `Accept.tables`: whether table pages may come and go, and so whether NO_POOL is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple

from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import Hfn

Bytes = tuple[int, bytes]
"""Guest memory that a call copied: its guest virtual address, and the bytes."""
Leads = Callable[[int, int, int], bool]
Touch = tuple[bool, int, int]
"""Bytes that were moved from or to a frame: whether written, host physical address, size."""
Range = tuple[int, int]
"""(gva, size)"""
POOL_NEED: Final = 4
"""No call needs more table pages than this; a domain with as many is never refused with NO_POOL."""


class Call(NamedTuple):
    """One hypercall that passed dispatch.

    `args` has the fields of the declaration (`from` is called `from_`). `fetched` is what the call copied
    successfully from guest memory after its struct. `cycles` is the clock at entry, `version` the version of
    the domain at entry.
    """

    name: str
    caller: int
    vcpu: int
    args: Any
    fetched: tuple[Bytes, ...] = ()
    cycles: int = 0
    version: int = 2


class Nested(NamedTuple):
    """A call that a multicall made, whether it passed dispatch or was refused there."""

    number: int
    status: int
    result: int


class Observed(NamedTuple):
    """How the call ended.

    `written` is what the call wrote to guest memory (calls nested in it write for themselves). `fresh` are
    the frames that it took from the free ones, each 4 KiB of a larger block, in the order of the guest frames
    that they are for; an event bucket is one. `pool` is the number of free table pages of the caller
    afterwards, or None if nobody looked. `cycles` is the clock at the end. `nested` are the calls made by a
    multicall. `touched` are the bytes of frames that were read and written, in order, for the guest but not at an
    address of its own: by a device, or from frame to frame; `garbled` if the latter wrote something else than it read.
    `leads` says of (gva, size, access) whether the guest's own translations allow that access now that the call is
    over, or is None if nobody can tell; `shut` that they did not when the call began, for the range that it writes.
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


class Mismatch(NamedTuple):
    """What was observed is not what the contract allows.

    `rule` is status, result, fetched, written, moved, fresh, pool, nested, time or change.
    """

    rule: str
    operation: str
    message: str


class Tables(IntEnum):
    """What a call may do to the number of free table pages of its domain."""

    UNTOUCHED = 0
    RETURNED = 1
    """Empty tables may go back to the pool."""
    NEEDED = 2
    """New levels and splits take up to POOL_NEED pages, or NO_POOL refuses them; pages may also go back."""


Effect = Callable[[tuple[Hfn, ...]], None]
"""Writes the effect to the state, given the fresh frames."""


class Accept(NamedTuple):
    """The call succeeds: its result, its effect, what must be seen; `order` is that of the fresh blocks."""

    result: int = 0
    effect: Effect | None = None
    fresh: int = 0
    order: int = 0
    tables: Tables = Tables.UNTOUCHED
    payer: int | None = None
    """The domain whose table pages they are, if that is not the caller."""
    written: Bytes | None = None
    losable: bool = False
    """The effect may have taken the guest's way to `written` away: then nothing is written."""
    moved: tuple[Touch, ...] = ()
    """The bytes that are moved between frames."""


DONE: Final = Accept()
"""No more than that it succeeds."""
Expected = Status | Accept | Mismatch
"""A Mismatch is for what only the call's own rule can tell."""


def move(source: int, dest: int, size: int) -> tuple[Touch, Touch]:
    """What is seen of `size` bytes that go from one host physical address to another, each in one page."""
    return (False, source, size), (True, dest, size)
