"""The abstract state of the specification: a flat mapping from cells to immutable values, with an undo log.

`cells.py` lists the cells and the values that each holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import filterfalse, repeat
from typing import Final

from hvfuzz.abi.boot import DEVICES
from hvfuzz.abi.limits import SELF
from hvfuzz.machine.addresses import Hfn
from hvfuzz.oracles.contract.spec.blocks import numbered
from hvfuzz.oracles.contract.spec.cells import FREE_FRAME, Frame, Page
from hvfuzz.oracles.contract.spec.undo_log import Journal, Key, Value
from hvfuzz.oracles.scene.excuses import Excuse

FREE: Final = ("free",)
GHOSTS: Final = frozenset({"poll", "window"})
"""Cells that exist in the specification only."""
_frame = partial(tuple.__new__, Frame)  # Half the time of the constructor; counts change in most calls that map.


class State(Journal):
    """The cells of one machine, whose number of frames is `frames`."""

    __slots__ = ("excused", "frames")

    def __init__(self, frames: int, cells: Iterable[tuple[Key, Value]] = ()) -> None:
        """Start from the given cells, which are the base of `restore`."""
        super().__init__(cells)
        self.frames: Final = frames
        self.excused: Final[list[Excuse]] = []
        """What the specification let pass because it cannot know; who judges by it takes these."""

    def __getitem__(self, key: Key) -> Value:
        """The value of a cell. Raises KeyError if the cell does not exist."""
        return self.cells[key]

    def __contains__(self, key: Key) -> bool:
        """Whether the cell exists."""
        return key in self.cells

    def page(self, domain: int, gfn: int) -> Page | None:
        """The stage-2 mapping of guest frame `gfn`; None if it is absent."""
        page: Page | None = self.get(("page", domain, gfn))
        return page

    def frame(self, hfn: int) -> Frame:
        """The use of a host frame; FREE_FRAME if it is free."""
        frame: Frame | None = self.get(("frame", hfn))
        return FREE_FRAME if frame is None else frame

    def free(self) -> int:
        """The number of free host frames."""
        count: int = self.cells[FREE]
        return count

    def resolve(self, caller: int, domain: int) -> int | None:
        """The domain that `domain`, an argument of `caller`, means; None if there is no such domain."""
        if domain == SELF:
            return caller
        return domain if ("version", domain) in self.cells else None

    def lowest_free(self, table: str, domain: int, size: int) -> int | None:
        """The lowest free index of one of the domain's tables, which has `size` entries; None if it is full."""
        for key in filterfalse(self.cells.__contains__, numbered(table, domain, size)):
            return key[2]
        return None

    def reserved(self, pages: range) -> bool:
        """Whether firmware reserves one of these device pages for a device."""
        regions = (self.get(("reserved", device)) for device in range(DEVICES))
        return any(region and region.start < pages.stop and pages.start < region.stop for region in regions)

    # The host's frames.

    def allot(self, owner: Frame, fresh: Sequence[Hfn]) -> None:
        """Take free frames into use `owner`."""
        self.create([("frame", hfn) for hfn in fresh], repeat(owner))
        self[FREE] = self.free() - len(fresh)

    def release(self, frames: Sequence[int]) -> None:
        """Make frames free."""
        self.erase([("frame", hfn) for hfn in frames])
        self[FREE] = self.free() + len(frames)

    def count(self, hfn: int, maps: int = 0, pins: int = 0, grants: int = 0) -> None:
        """Add to the counts of a frame; negative numbers subtract."""
        key = ("frame", hfn)
        old: Frame | None = self.get(key)
        owner, old_maps, old_pins, old_grants = FREE_FRAME if old is None else old
        self._changed.append(key)
        self._old.append(old)
        self.cells[key] = _frame((owner, old_maps + maps, old_pins + pins, old_grants + grants))
