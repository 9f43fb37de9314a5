"""Reductions for the minimiser: smaller and simpler variants of a program, an op or a value."""

from collections.abc import Iterator
from typing import Final

from hvfuzz.guest.program.instruction_kinds import ADVERSARIES
from hvfuzz.guest.program.program import Actor, Op, Program, Race, Ref, Value, points_of
from hvfuzz.guest.program.relinking import relink

SIMPLE_VALUES: Final = (0, 1, 2, 8, 0x40)
"""Replacements for any larger number, in the order in which they are tried."""
FIRST_POINTS: Final = range(4)
"""Numbers of the points that are tried in place of a point of a kind that is rarer."""
PAGE: Final = 0xFFF
"""Mask of the offset within a page."""


def remove_ops(program: Program, removed: frozenset[int]) -> Program:
    """Remove the ops with the indices `removed`; references to their results become 0."""
    kept = [index for index in range(len(program.ops)) if index not in removed]
    place = {index: new for new, index in enumerate(kept)}

    def link(ref: Ref) -> int | Ref:
        return Ref(place[ref.op]) if ref.op in place else 0

    return program._replace(ops=tuple(relink(program.ops[index], link) for index in kept))


def adversaries(program: Program) -> tuple[int, ...]:
    """Indices of the ops that are no act of a guest: what the hardware, or the host around the hypervisor, does."""
    return tuple(index for index, op in enumerate(program.ops) if op.kind.name in ADVERSARIES)


def dependents(program: Program, index: int) -> frozenset[int]:
    """Indices of op `index` and of all ops that use its result, directly or indirectly."""
    gone = {index}
    for later in range(index + 1, len(program.ops)):
        used: list[Ref] = []
        relink(program.ops[later], lambda ref, used=used: used.append(ref) or ref)  # type: ignore[misc]
        if any(ref.op in gone for ref in used):
            gone.add(later)
    return frozenset(gone)


def replace_op(program: Program, place: int, op: Op) -> Program:
    """Replace the op with index `place`."""
    return program._replace(ops=(*program.ops[:place], op, *program.ops[place + 1 :]))


def serialise_race(program: Program, place: int) -> Program:
    """Turn the race of op `place` into an op that runs just before it: the same ops without concurrency."""
    ops = program.ops
    race = ops[place].race
    assert race is not None

    def link(ref: Ref) -> Ref:
        return Ref(ref.op + 1) if ref.op >= place else ref

    raced = ops[place]._replace(race=None)
    later = (relink(op, link) for op in ops[place + 1 :])
    return program._replace(ops=(*ops[:place], race.op, raced, *later))


def simpler_values(value: Value) -> Iterator[Value]:
    """Yield simpler values than `value`, the simplest first. A reference is kept: it says where a number comes from."""
    if isinstance(value, Ref):
        return
    if isinstance(value, tuple):
        if len(value) > 1:
            yield value[:1]
            yield value[: len(value) // 2]
        for drop in range(len(value)):
            yield value[:drop] + value[drop + 1 :]
        for place, each in enumerate(value):
            for simpler in simpler_values(each):
                if isinstance(simpler, int):
                    yield (*value[:place], simpler, *value[place + 1 :])
    else:
        yield from (simple for simple in SIMPLE_VALUES if simple < value)
        if value > PAGE:
            yield value & ~PAGE
            yield value & PAGE
            yield value & (value - 1)  # without its lowest bit
            yield value & ((1 << (value.bit_length() - 1)) - 1)  # without its highest bit


def simpler_shapes(op: Op) -> Iterator[Op]:
    """Yield `op` with a simpler race, with less of its header mangled, or run by vCPU 0."""
    race, mangle = op.race, op.mangle
    if race is not None:
        yield op._replace(race=None)
        # A race at a fetch is the simplest: it happens in most ops, and not only in the middle of a change.
        for point in points_of(op.kind):
            if point < race.point:
                yield from (op._replace(race=Race(number, race.op, point)) for number in FIRST_POINTS)
        yield from (op._replace(race=race._replace(number=number)) for number in range(race.number))
        yield from (op._replace(race=race._replace(op=other)) for other in simpler_shapes(race.op))
        for place in range(len(race.op.values)):
            yield from (op._replace(race=race._replace(op=other)) for other in simpler_fields(race.op, place))
    if mangle is not None:
        yield op._replace(mangle=None)
        parts = [name for name, value in mangle._asdict().items() if value is not None]
        if len(parts) > 1:
            yield from (op._replace(mangle=mangle._replace(**{name: None})) for name in parts)
    if op.actor.vcpu:
        yield op._replace(actor=Actor(op.actor.domain, 0))


def simpler_fields(op: Op, place: int) -> Iterator[Op]:
    """Yield `op` with a simpler value in field `place`."""
    for simpler in simpler_values(op.values[place]):
        yield op._replace(values=(*op.values[:place], simpler, *op.values[place + 1 :]))
