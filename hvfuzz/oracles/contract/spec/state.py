"""The abstract state of the specification: a flat mapping from cells to immutable values, with an undo log.

An absent cell means "none of that". `Frame`, `Page` and so on are the values; `d` is a domain.

| cell                 | value        | meaning                                                             |
|----------------------|--------------|---------------------------------------------------------------------|
| ("version", d)       | int          | negotiated version; the domain exists if the cell does              |
| ("vcpu", d, i)       | RunState     | every vCPU of every domain has the cell                             |
| ("poll", d, i)       | Poll         | ghost: what a polling vCPU waits for                                |
| ("page", d, gfn)     | Page         | a RAM leaf of d's stage 2, one cell for each 4 KiB of a larger leaf |
| ("iova", d, page)    | IoPage       | a leaf of d's IOMMU table; page = iova >> 12                        |
| ("frame", hfn)       | Frame        | a frame in use, by a domain or by the hypervisor (HOST_FRAME)       |
| ("free",)            | int          | number of free host frames                                          |
| ("pool", d)          | int          | free table pages in d's pool; adopted, not predicted                |
| ("grant", d, ref)    | Grant        | a live grant entry of d                                             |
| ("handle", d, h)     | Handle       | a live grant mapping made by d                                      |
| ("bucket", d, i)     | Hfn          | the page that holds ports 32*i to 32*i+31 of d                      |
| ("port", d, p)       | Port         | an allocated port                                                   |
| ("device", id)       | int          | the domain that the device is assigned to                           |
| ("reserved", id)     | range        | device pages that firmware keeps for the device; never changes      |
| ("window", id)       | int          | ghost: the device page at which its domain maps its registers       |
| ("clock_window", d)  | ClockWindow  | the latest window in which d read the clock, and how often          |
| ("console", d)       | bytes        | the last 256 bytes that d wrote with `console.write`                |

A ghost cell is the specification's own: there is nothing in the machine to compare it with.
Values are normal where the contract leaves freedom: the remote port of an unbound port is 0, and so are the
gfn (iova) of a handle without a host (device) side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import filterfalse, repeat
from typing import Any, Final

from hvfuzz.abi.boot import DEVICES
from hvfuzz.abi.limits import SELF
from hvfuzz.machine.addresses import Hfn
from hvfuzz.oracles.contract.spec.blocks import Block, numbered
from hvfuzz.oracles.contract.spec.cells import FREE_FRAME, Frame, Page

Key = tuple[Any, ...]
Value = Any
FREE: Final = ("free",)
GHOSTS: Final = frozenset({"poll", "window"})
"""Cells that exist in the specification only."""
_BLOCK: Final[Key] = ("block",)
"""In the undo log, in place of the keys of a block; what there was before is in place of it the block itself."""
_frame = partial(tuple.__new__, Frame)


class State:
    """The cells. Write with `state[key] = value` and `del state[key]`: this is recorded, and can be undone.

    `cells` and `get` are for reading. `frames` is the number of frames of the machine.
    """

    __slots__ = ("_blocks", "_changed", "_mark", "_old", "cells", "frames", "get")

    def __init__(self, frames: int, cells: Iterable[tuple[Key, Value]] = ()) -> None:
        """Start from the given cells, which are the base of `restore`."""
        self.frames: Final = frames
        self.cells: Final[dict[Key, Value]] = dict(cells)
        self.get: Final[Callable[[Key], Any]] = self.cells.get
        self._changed: list[Key] = []
        self._old: list[Value] = []
        self._blocks: list[int] = []
        """Where in the log there are blocks."""
        self._mark = 0

    # Undo.

    def snapshot(self) -> None:
        """Make the present cells the base that `restore` returns to."""
        self._changed.clear()
        self._old.clear()
        self._blocks.clear()
        self._mark = 0

    def restore(self) -> None:
        """Return to the base, in time proportional to the writes since."""
        self.rollback(0)
        self._mark = 0

    def checkpoint(self) -> int:
        """A name for the present state, valid until `snapshot` or a roll back beyond it."""
        return len(self._changed)

    def rollback(self, checkpoint: int) -> None:
        """Return to the state that `checkpoint` named."""
        blocks, cells = self._blocks, self.cells
        while blocks and blocks[-1] >= checkpoint:
            at = blocks.pop()
            block = self._old[at]
            self._undo(at + 1)
            del self._changed[at:], self._old[at:]
            for key in block:
                del cells[key]
        self._undo(checkpoint)
        self._mark = min(self._mark, checkpoint)

    def _undo(self, checkpoint: int) -> None:
        """Undo writes that are no blocks'."""
        changed, old, cells = self._changed, self._old, self.cells
        if len(changed) == checkpoint:
            return
        latest_first = slice(None, checkpoint - 1 if checkpoint else None, -1)
        # The oldest write of a cell comes last, and stays.
        undone = dict(zip(changed[latest_first], old[latest_first], strict=True))
        cells.update(undone)
        for key, value in undone.items():
            if value is None:
                del cells[key]
        del changed[checkpoint:], old[checkpoint:]

    def begin(self) -> None:
        """From here on writes count as those of the next call."""
        self._mark = len(self._changed)

    def abandon(self) -> None:
        """Undo the writes since `begin`."""
        self.rollback(self._mark)

    @property
    def touched(self) -> bool:
        """Whether anything was written since `begin`."""
        return len(self._changed) != self._mark

    @property
    def written(self) -> list[Key]:
        """The cells written since `begin`, in order; one that is written twice appears twice."""
        written = self._changed[self._mark :]
        blocks = self.blocks
        if not blocks:
            return written
        return [key for key in written if key is not _BLOCK] + [key for block in blocks for key in block]

    def before(self) -> dict[Key, Value]:
        """What the cells written since `begin` were then, None for those that were absent; blocks are left out."""
        latest_first = slice(None, self._mark - 1 if self._mark else None, -1)
        return dict(zip(self._changed[latest_first], self._old[latest_first], strict=True))

    @property
    def blocks(self) -> list[Block]:
        """The blocks written since `begin`."""
        mark = self._mark
        if not self._blocks or self._blocks[-1] < mark:
            return []
        return [self._old[at] for at in self._blocks if at >= mark]

    @property
    def singles(self) -> list[Key]:
        """The cells written since `begin`, but for those of blocks."""
        written = self._changed[self._mark :]
        return [key for key in written if key is not _BLOCK] if self._blocks else written

    # Writing.

    def __setitem__(self, key: Key, value: Value) -> None:
        """Write one cell."""
        self._changed.append(key)
        self._old.append(self.get(key))
        self.cells[key] = value

    def __delitem__(self, key: Key) -> None:
        """Make one cell absent; it may be so already."""
        self._changed.append(key)
        self._old.append(self.cells.pop(key, None))

    def create(self, keys: Sequence[Key], values: Iterable[Value]) -> None:
        """Write many cells that are known to be absent, each once; `values` may go on for longer."""
        self._changed.extend(keys)
        self._old.extend(repeat(None, len(keys)))
        self.cells.update(zip(keys, values, strict=False))

    def create_block(self, block: Block) -> None:
        """Write the cells of a block, which are known to be absent."""
        self._blocks.append(len(self._changed))
        self._changed.append(_BLOCK)
        self._old.append(block)
        self.cells.update(block)

    def update(self, keys: Sequence[Key], values: Iterable[Value]) -> None:
        """Write many cells, each once; `values` may go on for longer."""
        self._changed.extend(keys)
        self._old.extend(map(self.get, keys))
        self.cells.update(zip(keys, values, strict=False))

    def erase(self, keys: Sequence[Key]) -> None:
        """Make many cells absent."""
        self._changed.extend(keys)
        self._old.extend(map(self.cells.pop, keys, repeat(None)))

    # Reading.

    def __getitem__(self, key: Key) -> Value:
        """The value of a cell that is known to exist; KeyError if it does not."""
        return self.cells[key]

    def __contains__(self, key: Key) -> bool:
        """Whether the cell exists."""
        return key in self.cells

    def page(self, domain: int, gfn: int) -> Page | None:
        """The stage-2 mapping of guest frame `gfn`."""
        page: Page | None = self.get(("page", domain, gfn))
        return page

    def frame(self, hfn: int) -> Frame:
        """The use of a host frame; FREE_FRAME if it has none."""
        frame: Frame | None = self.get(("frame", hfn))
        return FREE_FRAME if frame is None else frame

    def free(self) -> int:
        """The number of free host frames."""
        count: int = self.cells[FREE]
        return count

    def resolve(self, caller: int, domain: int) -> int | None:
        """The domain that an argument of `caller` names; None if there is no such domain."""
        if domain == SELF:
            return caller
        return domain if ("version", domain) in self.cells else None

    def lowest_free(self, table: str, domain: int, size: int) -> int | None:
        """The lowest number that is not in use in one of the domain's tables; None if it is full."""
        for key in filterfalse(self.cells.__contains__, numbered(table, domain, size)):
            return key[2]
        return None

    def reserved(self, pages: range) -> bool:
        """Whether firmware keeps one of these device pages for a device."""
        regions = (self.get(("reserved", device)) for device in range(DEVICES))
        return any(region and region.start < pages.stop and pages.start < region.stop for region in regions)

    # The host's frames.

    def allot(self, owner: Frame, fresh: Sequence[Hfn]) -> None:
        """Take free frames into the use that `owner` describes."""
        self.create([("frame", hfn) for hfn in fresh], repeat(owner))
        self[FREE] = self.free() - len(fresh)

    def release(self, frames: Sequence[int]) -> None:
        """Return frames to the free ones."""
        self.erase([("frame", hfn) for hfn in frames])
        self[FREE] = self.free() + len(frames)

    def count(self, hfn: int, maps: int = 0, pins: int = 0, grants: int = 0) -> None:
        """Add to the counts of a frame."""
        key = ("frame", hfn)
        old: Frame | None = self.get(key)
        owner, old_maps, old_pins, old_grants = FREE_FRAME if old is None else old
        self._changed.append(key)
        self._old.append(old)
        self.cells[key] = _frame((owner, old_maps + maps, old_pins + pins, old_grants + grants))
