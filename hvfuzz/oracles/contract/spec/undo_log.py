"""A mapping from cells to values with an undo log of its writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Final

from hvfuzz.oracles.contract.spec.blocks import Block

Key = tuple[Any, ...]
Value = Any
_BLOCK: Final[Key] = ("block",)
"""Log entry of a whole block: it stands where a key would, and the block itself where the old value would."""


class Journal:
    """The cells. Write with `journal[key] = value` and `del journal[key]`; every write is recorded.

    `cells` and `get` are for reading. The log is `_changed`, the keys written, in order, and `_old`, the value of each
    before; `_blocks` are the indices in the log of whole blocks. The call under judgement began at index `_mark`.
    """

    __slots__ = ("_blocks", "_changed", "_mark", "_old", "cells", "get")

    def __init__(self, cells: Iterable[tuple[Key, Value]] = ()) -> None:
        """Start from the given cells, which are the base of `restore`."""
        self.cells: Final[dict[Key, Value]] = dict(cells)
        self.get: Final[Callable[[Key], Any]] = self.cells.get
        self._changed: list[Key] = []
        self._old: list[Value] = []
        self._blocks: list[int] = []
        self._mark = 0

    # Undo.

    def restore(self) -> None:
        """Return to the base, in time proportional to the number of writes since."""
        self.rollback(0)
        self._mark = 0

    def checkpoint(self) -> int:
        """An identifier of the present state for `rollback`, valid until a rollback beyond it."""
        return len(self._changed)

    def rollback(self, checkpoint: int) -> None:
        """Return to the state at `checkpoint`."""
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
        """Undo the writes from index `checkpoint` of the log on, none of which is a block."""
        changed, old, cells = self._changed, self._old, self.cells
        if len(changed) == checkpoint:
            return
        latest_first = slice(None, checkpoint - 1 if checkpoint else None, -1)
        # The oldest write of a cell comes last and prevails.
        undone = dict(zip(changed[latest_first], old[latest_first], strict=True))
        cells.update(undone)
        for key, value in undone.items():
            if value is None:
                del cells[key]
        del changed[checkpoint:], old[checkpoint:]

    def begin(self) -> None:
        """Count writes from here on as those of the next call."""
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
        """The cells written since `begin`, in order, those of blocks last. A cell written twice appears twice."""
        written = self._changed[self._mark :]
        blocks = self.blocks
        if not blocks:
            return written
        return [key for key in written if key is not _BLOCK] + [key for block in blocks for key in block]

    def before(self) -> dict[Key, Value]:
        """The values at `begin` of the cells written since, None for absent cells. Cells of blocks are left out."""
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
        """The cells written since `begin`, without those of blocks."""
        written = self._changed[self._mark :]
        return [key for key in written if key is not _BLOCK] if self._blocks else written

    # Writing.

    def __setitem__(self, key: Key, value: Value) -> None:
        """Write one cell."""
        self._changed.append(key)
        self._old.append(self.get(key))
        self.cells[key] = value

    def __delitem__(self, key: Key) -> None:
        """Remove one cell; it may be absent already."""
        self._changed.append(key)
        self._old.append(self.cells.pop(key, None))

    def create(self, keys: Sequence[Key], values: Iterable[Value]) -> None:
        """Write distinct cells that are known to be absent. Surplus `values` are ignored."""
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
        """Write distinct cells. Surplus `values` are ignored."""
        self._changed.extend(keys)
        self._old.extend(map(self.get, keys))
        self.cells.update(zip(keys, values, strict=False))

    def erase(self, keys: Sequence[Key]) -> None:
        """Remove distinct cells; they may be absent already."""
        self._changed.extend(keys)
        self._old.extend(map(self.cells.pop, keys, repeat(None)))
