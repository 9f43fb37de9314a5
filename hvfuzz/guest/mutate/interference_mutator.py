"""The mutator that inserts a denial of memory, or a loss of cached translations, next to an op that it can reach."""

from __future__ import annotations

from random import Random

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.interference.denied_requests import asks_for_memory, denial
from hvfuzz.guest.generate.interference.lost_entries import loss
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.mutate.insertion import with_rest
from hvfuzz.guest.program.program import Op, batched


def interfere(grammar: Grammar, rng: Random, world: int, ops: list[Op]) -> list[Op]:
    """Insert a denial before an op that asks for memory, or a loss of cached entries before any op that uses them."""
    at = int(rng.random() * len(ops))
    # A denial between a multicall and its entries would cut the batch.
    first = next((index for index in range(at) if index + batched(ops, index) >= at), at)
    context = Context(grammar, rng, world, ops[:first], ops)
    inserted = denial(context, ops[at]) if asks_for_memory(ops[at].kind) and context.chance(0.6) else None
    if inserted is None:
        inserted = loss(context, ops[at])
    if inserted is None:
        return ops
    context.append(inserted)
    return with_rest(context, ops, first)
