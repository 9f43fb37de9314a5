"""Mutators of races: what goes on in the middle of an op, and at which point."""

from __future__ import annotations

from random import Random

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.races import with_race
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.mutate.insertion import with_rest
from hvfuzz.guest.mutate.op_mutators import insert_ops
from hvfuzz.guest.program.program import MAX_POINT, Op, points_of


def change_race(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Add a race to one op; or change the op or the point of its race, or remove the race."""
    raceable = [at for at, op in enumerate(ops) if points_of(op.kind)]
    if not raceable:
        return insert_ops(grammar, rng, world, ops)
    at = raceable[int(rng.random() * len(raceable))]
    op = ops[at]
    choice = rng.random()
    if op.race is None or choice < 0.4:
        ops[at] = with_race(Context(grammar, rng, world, ops[:at], ops), op)
    elif choice < 0.6:
        step = 1 if rng.random() < 0.5 else -1
        ops[at] = op._replace(race=op.race._replace(number=min(max(op.race.number + step, 0), MAX_POINT)))
    elif choice < 0.7:
        points = points_of(op.kind)
        ops[at] = op._replace(race=op.race._replace(point=points[int(rng.random() * len(points))]))
    elif choice < 0.85:
        ops[at] = op._replace(race=None)
    else:
        # The racing op before the raced one: the same ops without concurrency.
        context = Context(grammar, rng, world, ops[:at], ops)
        context.append(op.race.op)
        ops[at] = op._replace(race=None)
        return with_rest(context, ops, at)
    return ops
