"""Mutators that insert, delete, move and repeat ops."""

from __future__ import annotations

from random import Random

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import compose
from hvfuzz.guest.generate.templates.repetition import strided_copies
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.mutate.insertion import LONG_PROGRAM, with_insertion, with_rest
from hvfuzz.guest.mutate.op_order import arrange
from hvfuzz.guest.program.program import MAX_OPS, Op


def insert_ops(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Insert one step of generation at a random place; in a long program, mostly delete ops."""
    if len(ops) >= LONG_PROGRAM and rng.random() < 0.8:
        return delete_ops(grammar, rng, world, ops)
    return with_insertion(grammar, rng, world, ops, int(rng.random() * (len(ops) + 1)))


def consume_result(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Insert an op that takes the result of an earlier op."""
    producers = [at for at, op in enumerate(ops) if op.kind.produces in grammar.consumers]
    if not producers or len(ops) >= MAX_OPS:
        return insert_ops(grammar, rng, world, ops)
    source = producers[int(rng.random() * len(producers))]
    at = source + 1 + int(rng.random() * (len(ops) - source))
    context = Context(grammar, rng, world, ops[:at], ops)
    kind = context.pick(grammar.consumers[ops[source].kind.produces or ""])
    context.append(compose(context, kind, sources=(source,)))
    return with_rest(context, ops, at)


def delete_ops(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Delete one op, or up to eight adjacent ones."""
    at = int(rng.random() * len(ops))
    count = 1 if rng.random() < 0.75 else 1 + int(rng.random() * min(len(ops) - at, 8))
    return arrange(ops, [*range(at), *range(at + count, len(ops))])


def move_op(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Move one op to a random place."""
    order = list(range(len(ops)))
    moved = order.pop(int(rng.random() * len(order)))
    order.insert(int(rng.random() * (len(order) + 1)), moved)
    return arrange(ops, order)


def duplicate_ops(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Duplicate one op, or up to six adjacent ones, right after them or at a random place."""
    at = int(rng.random() * len(ops))
    end = at + (1 if rng.random() < 0.5 else 1 + int(rng.random() * min(len(ops) - at, 6)))
    if any(grammar.weights[op.kind] == 0 for op in ops[at:end]):
        return ops
    to = end if rng.random() < 0.5 else int(rng.random() * (len(ops) + 1))
    return arrange(ops, [*range(to), *range(at, end), *range(to, len(ops))])


def repeat_op(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Insert up to 20 copies of one op after it, mostly with an address that advances."""
    at = int(rng.random() * len(ops))
    if grammar.weights[ops[at].kind] == 0 or len(ops) > LONG_PROGRAM:
        return ops
    context = Context(grammar, rng, world, ops[: at + 1], ops)
    for op in strided_copies(context, ops[at], context.pick((1, 2, 4, 8, 16, 20))):
        context.append(op)
    return with_rest(context, ops, at + 1)


def wrap_in_multicall(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Insert a multicall that takes some adjacent calls as its entries."""
    kinds = [kind for kind in grammar.catalogue.kinds if kind.follow is not None and grammar.weights[kind] > 0]
    at = int(rng.random() * len(ops))
    end = at
    while end < len(ops) and end - at < 6 and ops[end].kind.number is not None and ops[end].kind.follow is None:
        end += 1
    if not kinds or end == at:
        return insert_ops(grammar, rng, world, ops)
    actor = ops[at].actor
    context = Context(grammar, rng, world, ops[:at], ops)
    multicall = compose(context, context.pick(kinds), actor)
    count = multicall.kind.index["count"]
    values = list(multicall.values)
    values[count] = taken = 1 + context.below(end - at)
    context.append(multicall._replace(values=tuple(values)))
    for each in range(at, at + taken):
        ops[each] = ops[each]._replace(actor=actor)
    return with_rest(context, ops, at)
