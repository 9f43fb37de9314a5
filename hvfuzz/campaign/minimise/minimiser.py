"""Delta debugging: reduces a program, op by op and value by value, while it still shows one given finding."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from hvfuzz.campaign.minimise.reductions import (
    adversaries,
    dependents,
    remove_ops,
    replace_op,
    serialise_race,
    simpler_fields,
    simpler_shapes,
)
from hvfuzz.guest.program.program import Op, Program, defect
from hvfuzz.targets.target import Target


class Minimiser:
    """One minimisation: `program` is the best so far, and always shows the finding `identity` on `target`.

    Five passes run in turn until none makes progress: remove ops that are no act of a guest, remove races (a finding
    without either says more), remove ops, simplify ops, try a simpler world. Within a pass a success does not restart
    the scan. `tried` counts the programs run. `proceed` is called before each of them; minimisation stops when it
    returns False.
    """

    def __init__(
        self,
        program: Program,
        identity: str,
        target: Target,
        proceed: Callable[[], bool],
        on_progress: Callable[[Program, int], None] | None = None,
    ) -> None:
        self.program = program
        self.tried = 0
        self._identity: Final = identity
        self._target: Final = target
        self._proceed: Final = proceed
        self._on_progress: Final = on_progress
        self._failed: Final[set[Program]] = set()

    def run(self) -> Program:
        """Minimise, and return the smallest program found (the original one if nothing smaller shows the finding)."""
        self._truncate()
        before = None
        while before != self.program and self._proceed():
            before = self.program
            self._remove_adversaries()
            self._remove_races()
            self._remove_ops()
            self._simplify_ops()
            self._simplify_world()
        return self.program

    def _accept(self, candidate: Program) -> bool:
        """Run `candidate`; if it shows the finding, make it the best so far and return True."""
        if candidate == self.program or candidate in self._failed or defect(candidate) is not None:
            return False
        if not self._proceed():
            return False
        self.tried += 1
        if not any(finding.identity == self._identity for finding in self._target.run(candidate).findings):
            self._failed.add(candidate)
            return False
        self.program = candidate
        if self._on_progress is not None:
            self._on_progress(candidate, self.tried)
        return True

    def _truncate(self) -> None:
        """Remove the ops after the one that shows the finding."""
        if not self._proceed():
            return
        findings = self._target.run(self.program).findings
        at = next((finding.op for finding in findings if finding.identity == self._identity), -1)
        if 0 <= at < len(self.program.ops) - 1:
            self._accept(self.program._replace(ops=self.program.ops[: at + 1]))

    def _remove_races(self) -> None:
        """Remove all races, or else each that does not matter: concurrency is the hardest part of a program."""
        if any(op.race is not None for op in self.program.ops):
            self._accept(self.program._replace(ops=tuple(op._replace(race=None) for op in self.program.ops)))
        for place, op in enumerate(self.program.ops):
            if op.race is not None:
                self._accept(replace_op(self.program, place, op._replace(race=None)))

    def _remove_adversaries(self) -> None:
        """Remove all ops that are no act of a guest, or else as many as possible, from the end."""
        found = adversaries(self.program)
        if found and not self._accept(remove_ops(self.program, frozenset(found))):
            for index in reversed(found):
                self._accept(remove_ops(self.program, frozenset((index,))))

    def _remove_ops(self) -> None:
        """Remove ever smaller runs of ops, from the end; finally each op together with those that use its result."""
        size = len(self.program.ops) // 2
        while size >= 1:
            start = len(self.program.ops) - size
            while start > -size:
                piece = frozenset(range(max(start, 0), start + size))
                self._accept(remove_ops(self.program, piece))
                start -= size
            size //= 2
        index = len(self.program.ops) - 1
        while index >= 0:
            group = dependents(self.program, index)
            if len(group) > 1:
                self._accept(remove_ops(self.program, group))
            index = min(index, len(self.program.ops)) - 1

    def _simplify_ops(self) -> None:
        """Simplify each op, its race and its values."""
        place = 0
        while place < len(self.program.ops) and self._proceed():
            if self.program.ops[place].race is not None:
                self._accept(serialise_race(self.program, place))
            self._simplify_while(place, simpler_shapes)
            for field in range(len(self.program.ops[place].values)):
                self._simplify_while(place, lambda op, field=field: simpler_fields(op, field))  # type: ignore[misc]
            place += 1

    def _simplify_while(self, place: int, variants: Callable[[Op], Iterator[Op]]) -> None:
        """Replace op `place` by its `variants` until none is accepted. (Variants that failed are not run again.)"""
        while any(self._accept(replace_op(self.program, place, op)) for op in variants(self.program.ops[place])):
            pass

    def _simplify_world(self) -> None:
        """Try the worlds before the program's own: they are numbered from the simplest on."""
        for world in range(self.program.world):
            if self._accept(self.program._replace(world=world)):
                break


def minimise(
    program: Program,
    identity: str,
    target: Target,
    *,
    seconds: float = 30.0,
    proceed: Callable[[], bool] = lambda: True,
    on_progress: Callable[[Program, int], None] | None = None,
) -> Program:
    """Return the smallest program found within `seconds` that still shows the finding `identity` on `target`.

    `program` must show it. Return False from `proceed` to stop early. `on_progress(program, tried)` is called at each
    improvement with the number of programs tried so far.
    """
    deadline = time.monotonic() + seconds
    return Minimiser(program, identity, target, lambda: time.monotonic() < deadline and proceed(), on_progress).run()
