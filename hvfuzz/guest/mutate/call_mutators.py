"""Mutators that change how ops are performed: by which vCPU, mangled, or as a raw call."""

from __future__ import annotations

from random import Random

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.mangled_calls import as_raw_call, with_mangle
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.mutate.op_mutators import insert_ops
from hvfuzz.guest.mutate.op_order import nearest_actor
from hvfuzz.guest.program.program import Actor, Op


def change_actor(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Change the actor of one op, or of all ops of that actor."""
    at = int(rng.random() * len(ops))
    old = ops[at].actor
    context = Context(grammar, rng, world, ops, ops)
    new = context.actor(old.domain if rng.random() < 0.5 else None)
    if new == old:
        new = (
            nearest_actor(Actor(old.domain, 1 - old.vcpu), world)
            if old.vcpu < 2
            else nearest_actor(Actor(old.domain, 0), world)
        )
    if rng.random() < 0.75:
        ops[at] = ops[at]._replace(actor=new)
        return ops
    return [op._replace(actor=new) if op.actor == old else op for op in ops]


def change_mangle(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Mangle one call, or undo its mangling."""
    calls = [at for at, op in enumerate(ops) if op.kind.number is not None]
    if not calls:
        return insert_ops(grammar, rng, world, ops)
    at = calls[int(rng.random() * len(calls))]
    if ops[at].mangle is not None and rng.random() < 0.4:
        ops[at] = ops[at]._replace(mangle=None)
    else:
        ops[at] = with_mangle(Context(grammar, rng, world, ops[:at], ops), ops[at])
    return ops


def make_raw_call(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Replace one typed call by a raw one."""
    at = int(rng.random() * len(ops))
    ops[at] = as_raw_call(Context(grammar, rng, world, ops[:at], ops), ops[at])
    return ops
