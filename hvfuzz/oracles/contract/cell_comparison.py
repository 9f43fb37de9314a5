"""Compares the cells of the specification's state with those of the machine, and reports what differs.

After a report the specification adopts the machine's value, so that one fault does not echo through the rest of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hvfuzz.oracles.contract.abstraction import Abstraction
from hvfuzz.oracles.contract.cell_changes import Cells
from hvfuzz.oracles.contract.spec import GHOSTS, Block, Key, State, Value, judge_change
from hvfuzz.oracles.contract.spec.cell_words import difference
from hvfuzz.oracles.scene.excuses import POOL_ADOPTED

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.call_stack import CallStack

SHADOWED: Final = frozenset({"page", "iova", "frame"})
"""Cells that the shadow follows. It reports every change of them, so a cell that it did not report is unchanged."""


class CellComparison:
    """`state` is the specification's side, `abstraction` reads the machine's, `report` takes a rule and a message.

    `adopted` says whether the specification has adopted anything since the last reset.
    """

    __slots__ = ("_abstraction", "_calls", "_report", "adopted", "state")

    def __init__(
        self, state: State, abstraction: Abstraction, calls: CallStack, report: Callable[[str, str], None]
    ) -> None:
        self.state: Final = state
        self.adopted = False
        self._calls: Final = calls
        self._abstraction: Final = abstraction
        self._report: Final = report

    def reset(self) -> None:
        """Return to the state at the snapshot."""
        self.state.restore()
        self.adopted = False

    def compare(self, actual: Cells, blocks: list[Block]) -> None:
        """After a call: compare every cell that the specification wrote, and every cell that changed in the machine.

        `actual` are the cells that may have changed in the machine; `blocks` are further ones, in whole blocks.
        """
        state = self.state
        get = state.get
        expected = state.blocks
        if not (expected or blocks) or _same_blocks(expected, blocks):
            written = state.singles
        else:
            written = state.written
            actual = expanded(actual, blocks)
        unreported = [key for key in written if key not in actual]
        if unreported:
            before = state.before()
            for key in unreported:
                if key[0] == "pool":
                    state.excused.append(POOL_ADOPTED)
                    self.put(key, self._abstraction.cell(key))  # Another domain's pool: adopted, not predicted.
                    continue
                if key[0] in GHOSTS or (key[0] in SHADOWED and before.get(key) == get(key)):
                    continue
                actual[key] = self._abstraction.cell(key)
        if list(map(get, actual)) == list(actual.values()):
            return
        for key, value in actual.items():
            if get(key) != value:
                self._report(key[0], difference(key, value, get(key)))
                self.put(key, value)

    def judge_cell(self, key: Key) -> None:
        """Judge a cell of the machine that no call should have changed."""
        self.judge_change(key, self._abstraction.cell(key))

    def judge_change(self, key: Key, value: Value) -> None:
        """Judge a cell of the machine that is now `value` although no call changed it.

        Deadlines are met when an exit begins, so the time of that decides which polls may be over.
        """
        mismatch = judge_change(self.state, key, value, self._calls.cycles, "")
        if mismatch is not None:
            self._report(mismatch.rule, mismatch.message)
            self.put(key, value)

    def put(self, key: Key, value: Value) -> None:
        """Adopt the machine's value of one cell."""
        self.adopted = True
        if value is None:
            del self.state[key]
        else:
            self.state[key] = self._abstraction.cell(key)

    def adopt(self, actual: Cells, blocks: list[Block], domain: int) -> None:
        """Adopt the machine's values of the given cells, and the pool of `domain`."""
        state = self.state
        self.adopted = True
        actual = expanded(actual, blocks)
        actual["pool", domain] = self._abstraction.cell(("pool", domain))
        for key, value in actual.items():
            if state.get(key) != value:
                self.put(key, value)

    def audit(self) -> None:
        """Compare every cell."""
        expected = {key: value for key, value in self.state.cells.items() if key[0] not in GHOSTS}
        actual = self._abstraction.cells()
        if actual == expected:
            return
        for key in sorted({*actual, *expected}, key=repr):
            if actual.get(key) != expected.get(key):
                self._report(key[0], difference(key, actual.get(key), expected.get(key)))


def _same_blocks(expected: list[Block], actual: list[Block]) -> bool:
    """Whether the two sides have the same blocks, in any order."""
    # `spec.blocks` returns one dict for one block while it remembers it, so identity will do. A block that was
    # forgotten and made again only costs a comparison cell by cell.
    return {id(block) for block in expected} == {id(block) for block in actual} and len(expected) == len(actual)


def expanded(actual: Cells, blocks: list[Block]) -> Cells:
    """The given cells and those of the blocks in one dict; where both have a cell, `actual` wins."""
    if not blocks:
        return actual
    cells: Cells = {}
    for block in blocks:
        cells.update(block)
    cells.update(actual)
    return cells
