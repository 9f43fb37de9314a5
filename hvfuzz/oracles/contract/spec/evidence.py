"""The guest memory that a call read, handed to its rule; and whether FAULT is an allowed outcome.

The specification does not translate addresses. `Observed.leads` tells which accesses the guest's own translations allow
at the end of the call. FAULT is

- allowed if they do not allow reading a range that the call did not fetch (`take`), or writing the range that it must
  write (`writable`); if `leads` is None, then for any range that was not fetched or must be writable;
- required if the range to be written was not writable when the call began (`Observed.shut`), or a range is invalid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hvfuzz.machine.addresses import READ, WRITE
from hvfuzz.oracles.contract.spec.ranges import valid_range
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Bytes, Call, Expected, Observed, Range


class Evidence:
    """The fetches of one call. Its rule takes them in the order in which the ABI makes them."""

    __slots__ = ("_fetched", "_next", "_target", "_unfetched", "observed", "writes_judged")

    def __init__(self, fetched: tuple[Bytes, ...], observed: Observed) -> None:
        """`fetched` are the fetches after those of the struct."""
        self._fetched = fetched
        self._next = 0
        self.observed: Final = observed
        self._unfetched: Range | None = None
        """The range that the call should have fetched but did not."""
        self._target: Range | None = None
        """The range that the call must write, as long as FAULT is possible."""
        self.writes_judged = False
        """Whether the rule itself has judged what was written to guest memory."""

    @property
    def may_fault(self) -> bool:
        """Whether FAULT is allowed whatever the rule returns."""
        return self._target is not None and not self.writable_still(*self._target)

    @property
    def lost(self) -> bool:
        """Whether the range that the call must write is not known to be writable at the end of the call."""
        return self._target is None or not self.writable_still(*self._target)

    @property
    def unfounded(self) -> str:
        """Why FAULT is wrong although a range was not fetched; "" if it is right."""
        leads = self.observed.leads
        if self._unfetched is None or leads is None or not leads(*self._unfetched, READ):
            return ""
        gva, size = self._unfetched
        return f"FAULT, but the {size} bytes at {gva:#x} are readable"

    def writable_still(self, gva: int, size: int) -> bool:
        """Whether the range is known to be writable at the end of the call."""
        leads = self.observed.leads
        return leads is not None and leads(gva, size, WRITE)

    def denies(self, pieces: int) -> bool:
        """Whether one of the first `pieces` requests of the call fails: those for frames come before table pages."""
        return 0 <= self.observed.denied < pieces

    def all_written(self) -> None:
        """Note that the call has written everything, so that FAULT is no longer allowed."""
        self._target = None

    @property
    def left_over(self) -> tuple[Bytes, ...]:
        """The fetches that no step of the rule took: repeated or unnecessary ones."""
        if self._next == len(self._fetched):
            return ()
        return tuple([piece for piece in self._fetched[self._next :] if piece[1]])

    def take(self, gva: int, size: int) -> bytes | None:
        """The bytes that the call read from the range, in one or more pieces; None if the call must end with FAULT."""
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
            # An empty piece is valid at any address.
            pieces.append(data)
            gva += len(data)
            size -= len(data)
        if size:
            self._unfetched = whole
            return None
        return b"".join(pieces)

    def words(self, gva: int, count: int, width: int = 8) -> list[int] | None:
        """`take` of `count` little-endian numbers of `width` bytes."""
        data = self.take(gva, count * width)
        if data is None:
            return None
        return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]

    def writable(self, gva: int, size: int) -> bool:
        """Whether the range was writable when the call began. If so, FAULT is allowed if it is not at the end."""
        if not size:
            return True
        if self.observed.shut or not valid_range(gva, size):
            return False
        self._target = (gva, size)
        return True


Rule = Callable[[State, Call, Evidence], Expected]
