"""What a call copied from guest memory, as its rule sees it.

`Evidence.take` and `Evidence.writable`: the specification does not translate addresses, but is told by
  `Observed` where the guest's own translations lead. FAULT is allowed when they do not lead to what was not
  fetched, or to a range that must be written; if nobody says where they lead, whenever nothing was fetched, and
  from the moment when a range must be writable. It *must* be FAULT when nothing led there when the call began,
  or the range is not valid whatever is mapped: it wraps, is not canonical, or touches the hypervisor's hole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hvfuzz.machine.addresses import READ, WRITE
from hvfuzz.oracles.contract.spec.ranges import valid_range
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Bytes, Call, Expected, Observed, Range


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
