"""Insertion of generated ops into a program, for mutators."""

from __future__ import annotations

from random import Random
from typing import Final

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.generator import append_step
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.mutate.op_order import shift_references
from hvfuzz.guest.program.program import MAX_OPS, Op

LONG_PROGRAM: Final = 64
"""Programs of this many ops or more are mostly cut: longer ones cost time and rarely reach new states."""


def index_with_fields(rng: Random, ops: list[Op]) -> int:
    """The index of a random op, mostly of one that has fields."""
    at = int(rng.random() * len(ops))
    for _ in range(4):
        if ops[at].values:
            break
        at = int(rng.random() * len(ops))
    return at


def with_insertion(grammar: Grammar, rng: Random, world: int, ops: list[Op], at: int) -> list[Op]:
    """`ops` with one step of generation inserted before index `at`."""
    context = Context(grammar, rng, world, ops[:at], ops)
    append_step(context)
    return with_rest(context, ops, at)


def with_rest(context: Context, ops: list[Op], at: int) -> list[Op]:
    """`context.ops`, which starts with ops[:at], and then ops[at:]; `ops` unchanged if that exceeds MAX_OPS."""
    added = len(context.ops) - at
    if len(ops) + added > MAX_OPS:
        return ops
    return context.ops + shift_references(ops[at:], at, added)
