"""The single changes that a mutation is made of. Each takes a list of ops that is not empty, and may reuse it."""

from __future__ import annotations

from random import Random
from typing import Final

from hvfuzz.guest.generate.compose import compose
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.generation import grow
from hvfuzz.guest.generate.grammar import Grammar, pool_of
from hvfuzz.guest.generate.hostile import squashed, with_mangle, with_race
from hvfuzz.guest.generate.idioms import march
from hvfuzz.guest.generate.values import number
from hvfuzz.guest.mutate.argument_mutators import tweaked
from hvfuzz.guest.mutate.arrangement import arrange, fit, shift
from hvfuzz.guest.program.program import MAX_FETCH, MAX_OPS, Actor, Op, is_array

_LONG: Final = 64
"""Longer programs are rather cut than grown: they cost time, and say no more."""


def change_argument(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Another value for one field of one op, or of its race."""
    at = _with_fields(rng, ops)
    op = ops[at]
    context = Context(known, rng, world, ops[:at], ops)
    if op.race is not None and rng.random() < 0.35:
        other = tweaked(context, op.race.op)
        ops[at] = op._replace(race=op.race._replace(op=other))
    else:
        ops[at] = tweaked(context, op)
    return ops


def _with_fields(rng: Random, ops: list[Op]) -> int:
    at = int(rng.random() * len(ops))
    for _ in range(4):
        if ops[at].values:
            break
        at = int(rng.random() * len(ops))
    return at


def insert(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """New ops somewhere, with what they need."""
    if len(ops) >= _LONG and rng.random() < 0.8:
        return delete(known, rng, world, ops)
    return grown(known, rng, world, ops, int(rng.random() * (len(ops) + 1)))


def grown(known: Grammar, rng: Random, world: int, ops: list[Op], at: int) -> list[Op]:
    context = Context(known, rng, world, ops[:at], ops)
    grow(context)
    return _followed(context, ops, at)


def _followed(context: Context, ops: list[Op], at: int) -> list[Op]:
    """`context.ops`, which begins with ops[:at], then the rest of `ops`."""
    added = len(context.ops) - at
    if len(ops) + added > MAX_OPS:
        return ops
    return context.ops + shift(ops[at:], at, added)


def use_result(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """An op that takes the result of an earlier one."""
    producers = [at for at, op in enumerate(ops) if op.kind.produces in known.consumers]
    if not producers or len(ops) >= MAX_OPS:
        return insert(known, rng, world, ops)
    source = producers[int(rng.random() * len(producers))]
    at = source + 1 + int(rng.random() * (len(ops) - source))
    context = Context(known, rng, world, ops[:at], ops)
    kind = context.pick(known.consumers[ops[source].kind.produces or ""])
    context.append(compose(context, kind, sources=(source,)))
    return _followed(context, ops, at)


def delete(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Without an op, or some."""
    at = int(rng.random() * len(ops))
    count = 1 if rng.random() < 0.75 else 1 + int(rng.random() * min(len(ops) - at, 8))
    return arrange(ops, [*range(at), *range(at + count, len(ops))])


def move(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """One op elsewhere."""
    order = list(range(len(ops)))
    moved = order.pop(int(rng.random() * len(order)))
    order.insert(int(rng.random() * (len(order) + 1)), moved)
    return arrange(ops, order)


def duplicate(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """One op or some neighbours again, at once or later."""
    at = int(rng.random() * len(ops))
    end = at + (1 if rng.random() < 0.5 else 1 + int(rng.random() * min(len(ops) - at, 6)))
    if any(known.weights[op.kind] == 0 for op in ops[at:end]):
        return ops
    to = end if rng.random() < 0.5 else int(rng.random() * (len(ops) + 1))
    return arrange(ops, [*range(to), *range(at, end), *range(to, len(ops))])


def repeat_marching(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """One op many times more, moving through memory: tables fill up, pools run out."""
    at = int(rng.random() * len(ops))
    if known.weights[ops[at].kind] == 0 or len(ops) > _LONG:
        return ops
    context = Context(known, rng, world, ops[: at + 1], ops)
    for op in march(context, ops[at], context.pick((1, 2, 4, 8, 16, 20))):
        context.append(op)
    return _followed(context, ops, at + 1)


def vary(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """One op again, with one argument changed: granted and then less, or less before and then as it was; or both."""
    at = _with_fields(rng, ops)
    if known.weights[ops[at].kind] == 0:
        return ops
    choice = rng.random()
    if choice < 0.35:
        to = at
    else:
        to = at + 1 if choice < 0.75 else at + 1 + int(rng.random() * (len(ops) - at))
    context = Context(known, rng, world, ops[:to], ops)
    context.careful = context.chance(0.8)
    op = ops[at]._replace(race=None)
    context.append(tweaked(context, op, known.traits[op.kind].manner if context.chance(0.5) else ()))
    if to > at and context.chance(0.35):
        context.append(op)
    return _followed(context, ops, to)


def change_actor(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Another vCPU or domain performs one op, or all of a domain's ops."""
    at = int(rng.random() * len(ops))
    old = ops[at].actor
    context = Context(known, rng, world, ops, ops)
    new = context.actor(old.domain if rng.random() < 0.5 else None)
    if new == old:
        new = fit(Actor(old.domain, 1 - old.vcpu), world) if old.vcpu < 2 else fit(Actor(old.domain, 0), world)
    if rng.random() < 0.75:
        ops[at] = ops[at]._replace(actor=new)
        return ops
    return [op._replace(actor=new) if op.actor == old else op for op in ops]


def change_race(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """A race where there was none; or another moment, other op, or none."""
    fetching = [at for at, op in enumerate(ops) if op.kind.fetches]
    if not fetching:
        return insert(known, rng, world, ops)
    at = fetching[int(rng.random() * len(fetching))]
    op = ops[at]
    choice = rng.random()
    if op.race is None or choice < 0.4:
        ops[at] = with_race(Context(known, rng, world, ops[:at], ops), op)
    elif choice < 0.7:
        step = 1 if rng.random() < 0.5 else -1
        ops[at] = op._replace(race=op.race._replace(fetch=min(max(op.race.fetch + step, 0), MAX_FETCH)))
    elif choice < 0.85:
        ops[at] = op._replace(race=None)
    else:
        # What was a race happens before: the same without concurrency.
        context = Context(known, rng, world, ops[:at], ops)
        context.append(op.race.op)
        ops[at] = op._replace(race=None)
        return _followed(context, ops, at)
    return ops


def change_mangle(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """A wrong header or pointer; or the right one again."""
    calls = [at for at, op in enumerate(ops) if op.kind.number is not None]
    if not calls:
        return insert(known, rng, world, ops)
    at = calls[int(rng.random() * len(calls))]
    if ops[at].mangle is not None and rng.random() < 0.4:
        ops[at] = ops[at]._replace(mangle=None)
    else:
        ops[at] = with_mangle(Context(known, rng, world, ops[:at], ops), ops[at])
    return ops


def squash(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """A typed call as a raw one."""
    at = int(rng.random() * len(ops))
    ops[at] = squashed(Context(known, rng, world, ops[:at], ops), ops[at])
    return ops


def batch_calls(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Some calls as the entries of one multicall."""
    kinds = [kind for kind in known.catalogue.kinds if kind.follow is not None and known.weights[kind] > 0]
    at = int(rng.random() * len(ops))
    end = at
    while end < len(ops) and end - at < 6 and ops[end].kind.number is not None and ops[end].kind.follow is None:
        end += 1
    if not kinds or end == at:
        return insert(known, rng, world, ops)
    actor = ops[at].actor
    context = Context(known, rng, world, ops[:at], ops)
    multicall = compose(context, context.pick(kinds), actor)
    count = multicall.kind.index["count"]
    values = list(multicall.values)
    values[count] = taken = 1 + context.below(end - at)
    context.append(multicall._replace(values=tuple(values)))
    for each in range(at, at + taken):
        ops[each] = ops[each]._replace(actor=actor)
    return _followed(context, ops, at)


def rename(known: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Another value wherever the program uses the same one: what belonged together still does."""
    at = _with_fields(rng, ops)
    if not ops[at].values:
        return ops
    position = int(rng.random() * len(ops[at].values))
    kind = ops[at].kind.fields[position].kind
    old = ops[at].values[position]
    if not isinstance(old, int) or is_array(kind) or kind.follow:
        return ops
    context = Context(known, rng, world, ops[:at], ops)
    new = number(context, kind, ops[at].actor)
    pool = pool_of(kind)
    for index, op in enumerate(ops):
        for spot in known.traits[op.kind].spots.get(pool, ()):
            if op.values[spot] == old and not is_array(op.kind.fields[spot].kind):
                fitting = new & op.kind.fields[spot].kind.maximum
                ops[index] = op = op._replace(values=(*op.values[:spot], fitting, *op.values[spot + 1 :]))
    return ops
