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

from hvfuzz.abi.boot import HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import READ, WRITE, Hfn
from hvfuzz.oracles.contract.spec.state import State

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


class Evidence:
    """One call's copies of guest memory, handed to its rule in the order in which the contract makes them."""

    __slots__ = ("_fetched", "_next", "_target", "_unfetched", "observed", "writes_judged")

    def __init__(self, fetched: tuple[Bytes, ...], observed: Observed) -> None:
        """Start at the first fetch after the struct's."""
        self._fetched = fetched
        self._next = 0
        self.observed: Final = observed
        self._unfetched: Range | None = None
        """What should have been fetched, and was not."""
        self._target: Range | None = None
        """What the call writes, and may find that it cannot."""
        self.writes_judged = False
        """The rule itself has compared what was written to guest memory."""

    @property
    def may_fault(self) -> bool:
        """Whether FAULT is allowed, whatever the rule returns."""
        return self._target is not None and not self.writable_still(*self._target)

    @property
    def lost(self) -> bool:
        """Whether the range that the call writes cannot be written any more, as far as anybody can tell."""
        return self._target is None or not self.writable_still(*self._target)

    @property
    def unfounded(self) -> str:
        """Why FAULT cannot be the answer although something was not fetched; "" if it can."""
        leads = self.observed.leads
        if self._unfetched is None or leads is None or not leads(*self._unfetched, READ):
            return ""
        gva, size = self._unfetched
        return f"FAULT, but nothing is in the way of reading {size} bytes at {gva:#x}"

    def writable_still(self, gva: int, size: int) -> bool:
        """Whether the guest's translations are known to lead to the range, for a write, when the call is over."""
        leads = self.observed.leads
        return leads is not None and leads(gva, size, WRITE)

    def all_written(self) -> None:
        """Nothing is left to be written: from here on FAULT is no possible answer."""
        self._target = None

    @property
    def left_over(self) -> tuple[Bytes, ...]:
        """Fetches that no step of the contract asked for: a word read twice, or never needed."""
        if self._next == len(self._fetched):
            return ()
        return tuple([piece for piece in self._fetched[self._next :] if piece[1]])

    def take(self, gva: int, size: int) -> bytes | None:
        """What the call copied from the range, in one or more pieces in order; None: it can only be FAULT."""
        if not size:
            return b""
        if not valid_range(gva, size):
            return None
        pieces = []
        whole = (gva, size)
        while size and self._next < len(self._fetched):
            start, data = self._fetched[self._next]
            if data and (start != gva or len(data) > size):
                return None
            self._next += 1
            # A piece of no bytes names no memory.
            pieces.append(data)
            gva += len(data)
            size -= len(data)
        if size:
            self._unfetched = whole
            return None
        return b"".join(pieces)

    def words(self, gva: int, count: int, width: int = 8) -> list[int] | None:
        """The range as little-endian numbers of `width` bytes."""
        data = self.take(gva, count * width)
        if data is None:
            return None
        return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]

    def writable(self, gva: int, size: int) -> bool:
        """Whether the range could be written when the call began; if so, FAULT remains possible."""
        if not size:
            return True
        if self.observed.shut or not valid_range(gva, size):
            return False
        self._target = (gva, size)
        return True


Rule = Callable[[State, Call, Evidence], Expected]


def move(source: int, dest: int, size: int) -> tuple[Touch, Touch]:
    """What is seen of `size` bytes that go from one host physical address to another, each in one page."""
    return (False, source, size), (True, dest, size)


def valid_range(gva: int, size: int) -> bool:
    """Whether a guest may name these bytes: no wrap, canonical, none of it in the hypervisor's hole."""
    end = gva + size
    if not size:
        return True
    if end <= 1 << 47:
        return True
    if gva < 2**64 - 2**47 or end > 2**64:
        return False
    return end <= HYPERVISOR_HOLE_START or gva >= HYPERVISOR_HOLE_END


def pages_in(first: int, count: int, limit: int, most: int) -> bool:
    """Whether `count` pages from `first` on are a permitted range: 1 to `most` of them, all below `limit`."""
    return 0 < count <= most and first + count <= limit
