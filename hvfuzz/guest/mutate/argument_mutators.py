"""Mutators that change the arguments of ops."""

from __future__ import annotations

from random import Random

from hvfuzz.guest.generate.argument_variation import with_changed_argument
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.values import number
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.grammar.op_traits import pool_of
from hvfuzz.guest.mutate.insertion import index_with_fields, with_rest
from hvfuzz.guest.program.program import Op, is_array


def change_argument(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Change one argument of one op, or of the op that races it."""
    at = index_with_fields(rng, ops)
    op = ops[at]
    context = Context(grammar, rng, world, ops[:at], ops)
    if op.race is not None and rng.random() < 0.35:
        other = with_changed_argument(context, op.race.op)
        ops[at] = op._replace(race=op.race._replace(op=other))
    else:
        ops[at] = with_changed_argument(context, op)
    return ops


def copy_with_change(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Insert a copy of one op with one argument changed, before it, or after it and sometimes followed by the op."""
    at = index_with_fields(rng, ops)
    if grammar.weights[ops[at].kind] == 0:
        return ops
    choice = rng.random()
    if choice < 0.35:
        to = at
    else:
        to = at + 1 if choice < 0.75 else at + 1 + int(rng.random() * (len(ops) - at))
    context = Context(grammar, rng, world, ops[:to], ops)
    context.careful = context.chance(0.8)
    op = ops[at]._replace(race=None)
    context.append(
        with_changed_argument(context, op, grammar.traits[op.kind].mode_fields if context.chance(0.5) else ())
    )
    if to > at and context.chance(0.35):
        context.append(op)
    return with_rest(context, ops, to)


def replace_everywhere(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Replace one value wherever the program uses it in a field of the same pool, so that its uses still agree."""
    at = index_with_fields(rng, ops)
    if not ops[at].values:
        return ops
    position = int(rng.random() * len(ops[at].values))
    kind = ops[at].kind.fields[position].kind
    old = ops[at].values[position]
    if not isinstance(old, int) or is_array(kind) or kind.follow:
        return ops
    context = Context(grammar, rng, world, ops[:at], ops)
    new = number(context, kind, ops[at].actor)
    pool = pool_of(kind)
    for index, op in enumerate(ops):
        for spot in grammar.traits[op.kind].positions.get(pool, ()):
            if op.values[spot] == old and not is_array(op.kind.fields[spot].kind):
                fitting = new & op.kind.fields[spot].kind.maximum
                ops[index] = op = op._replace(values=(*op.values[:spot], fitting, *op.values[spot + 1 :]))
    return ops
