"""Makes a program smaller and plainer while one finding of it stays: in a program's own terms, not in bytes."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from hvfuzz.guest.program import Actor, Op, Program, Race, Ref, Value, defect
from hvfuzz.targets.target import Target

SIMPLE: Final = (0, 1, 2, 8, 0x40)
"""Numbers that a reader finds plain, tried in place of any other, in this order."""


def _shifted(value: Value, removed: frozenset[int], place: dict[int, int]) -> Value:
    if isinstance(value, Ref):
        return 0 if value.op in removed else Ref(place[value.op])
    if isinstance(value, tuple):
        return tuple(_element(each, removed, place) for each in value)
    return value


def _element(value: int | Ref, removed: frozenset[int], place: dict[int, int]) -> int | Ref:
    if isinstance(value, Ref):
        return 0 if value.op in removed else Ref(place[value.op])
    return value


def without(program: Program, removed: frozenset[int]) -> Program:
    """`program` without the ops of these indices; what referred to their results is 0."""
    kept = [index for index in range(len(program.ops)) if index not in removed]
    place = {index: new for new, index in enumerate(kept)}

    def moved(op: Op) -> Op:
        race = None if op.race is None else Race(op.race.fetch, moved(op.race.op))
        return op._replace(values=tuple(_shifted(value, removed, place) for value in op.values), race=race)

    return program._replace(ops=tuple(moved(program.ops[index]) for index in kept))


def _shorter(program: Program) -> Iterator[Program]:
    """Candidates with fewer ops: halves first, then ever smaller pieces, from the end."""
    count = len(program.ops)
    size = count // 2
    while size >= 1:
        for start in range(count - size, -1, -size):
            yield without(program, frozenset(range(start, start + size)))
        size //= 2


def _plainer_values(value: Value) -> Iterator[Value]:
    if isinstance(value, tuple) and not isinstance(value, Ref):
        for drop in range(len(value)):
            yield value[:drop] + value[drop + 1 :]
        for place, element in enumerate(value):
            for simple in SIMPLE:
                if isinstance(element, int) and simple < element:
                    yield (*value[:place], simple, *value[place + 1 :])
    elif isinstance(value, int):
        yield from (simple for simple in SIMPLE if simple < value)
        if value > SIMPLE[-1]:
            yield value & ~0xFFF
            yield value & 0xFFF


def _plainer_op(op: Op) -> Iterator[Op]:
    if op.race is not None:
        yield op._replace(race=None)
        yield from (op._replace(race=Race(op.race.fetch, other)) for other in _plainer_op(op.race.op))
        yield from (op._replace(race=Race(fetch, op.race.op)) for fetch in range(op.race.fetch))
    if op.mangle is not None:
        yield op._replace(mangle=None)
    if op.actor.vcpu:
        yield op._replace(actor=Actor(op.actor.domain, 0))
    for place, value in enumerate(op.values):
        for plainer in _plainer_values(value):
            yield op._replace(values=(*op.values[:place], plainer, *op.values[place + 1 :]))


def _plainer(program: Program) -> Iterator[Program]:
    if program.world:
        yield program._replace(world=0)
    for place, op in enumerate(program.ops):
        for plainer in _plainer_op(op):
            yield program._replace(ops=(*program.ops[:place], plainer, *program.ops[place + 1 :]))


def minimise(
    program: Program,
    identity: str,
    target: Target,
    *,
    seconds: float = 30.0,
    step: Callable[[Program, int], None] | None = None,
) -> Program:
    """The smallest program found within `seconds` that still gives the finding `identity` on `target`.

    `program` must give it. `step` is told each improvement and the number of programs tried so far.
    """
    deadline = time.monotonic() + seconds
    tried = 0

    def holds(candidate: Program) -> bool:
        nonlocal tried
        if defect(candidate) is not None:
            return False
        tried += 1
        findings = target.run(candidate).findings
        return any(finding.identity == identity for finding in findings)

    improved = True
    while improved:
        improved = False
        for candidates in (_shorter, _plainer):
            again = True
            while again:
                again = False
                for candidate in candidates(program):
                    if time.monotonic() > deadline:
                        return program
                    if holds(candidate):
                        program = candidate
                        improved = again = True
                        if step is not None:
                            step(program, tried)
                        break
    return program
