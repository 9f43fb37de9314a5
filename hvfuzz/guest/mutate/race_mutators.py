"""Mutators of races: which op another vCPU performs between two fetches of the hypervisor."""

from __future__ import annotations

from random import Random

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.races import with_race
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.mutate.insertion import with_rest
from hvfuzz.guest.mutate.op_mutators import insert_ops
from hvfuzz.guest.program.program import MAX_FETCH, Op


def change_race(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Add a race to one op; or change the op or the fetch number of its race, or remove the race."""
    fetching = [at for at, op in enumerate(ops) if op.kind.fetches]
    if not fetching:
        return insert_ops(grammar, rng, world, ops)
    at = fetching[int(rng.random() * len(fetching))]
    op = ops[at]
    choice = rng.random()
    if op.race is None or choice < 0.4:
        ops[at] = with_race(Context(grammar, rng, world, ops[:at], ops), op)
    elif choice < 0.7:
        step = 1 if rng.random() < 0.5 else -1
        ops[at] = op._replace(race=op.race._replace(fetch=min(max(op.race.fetch + step, 0), MAX_FETCH)))
    elif choice < 0.85:
        ops[at] = op._replace(race=None)
    else:
        # The racing op before the raced one: the same ops without concurrency.
        context = Context(grammar, rng, world, ops[:at], ops)
        context.append(op.race.op)
        ops[at] = op._replace(race=None)
        return with_rest(context, ops, at)
    return ops
