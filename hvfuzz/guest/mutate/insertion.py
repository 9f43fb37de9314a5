"""Inserts ops into a program."""

from __future__ import annotations

from random import Random
from typing import Final

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.generation import append_step
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.mutate.arrangement import shift_references
from hvfuzz.guest.program.program import MAX_OPS, Op

LONG_PROGRAM: Final = 64
"""Longer programs are rather cut than grown: they cost time, and say no more."""


def index_with_fields(rng: Random, ops: list[Op]) -> int:
    at = int(rng.random() * len(ops))
    for _ in range(4):
        if ops[at].values:
            break
        at = int(rng.random() * len(ops))
    return at


def with_insertion(grammar: Grammar, rng: Random, world: int, ops: list[Op], at: int) -> list[Op]:
    context = Context(grammar, rng, world, ops[:at], ops)
    append_step(context)
    return with_rest(context, ops, at)


def with_rest(context: Context, ops: list[Op], at: int) -> list[Op]:
    """`context.ops`, which begins with ops[:at], then the rest of `ops`."""
    added = len(context.ops) - at
    if len(ops) + added > MAX_OPS:
        return ops
    return context.ops + shift_references(ops[at:], at, added)
