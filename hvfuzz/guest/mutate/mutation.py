"""Mutation of programs, and crossover of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.grammar.grammar import grammar_for
from hvfuzz.guest.grammar.weighted_choice import WeightedChoice
from hvfuzz.guest.mutate.insertion import with_insertion
from hvfuzz.guest.mutate.mutator_table import MUTATORS
from hvfuzz.guest.mutate.op_order import arrange, shift_references, with_nearest_actors
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import MAX_OPS, Program

_MUTATORS: Final = WeightedChoice(MUTATORS)


def mutate(
    program: Program,
    rng: Random,
    catalogue: Catalogue,
    weights: Mapping[str, int] | None = None,
    worlds: Sequence[int] | None = None,
) -> Program:
    """A copy of `program` with one to six mutations, well-formed; the same copy for the same state of `rng`.

    `weights` and `worlds` are those of `generate`. Never raises for a well-formed program.
    """
    grammar = grammar_for(catalogue, weights)
    world, ops = program.world, list(program.ops)
    if (worlds and world not in worlds) or (rng.random() < 0.01 and len(worlds or WORLDS) > 1):
        world = worlds[int(rng.random() * len(worlds))] if worlds else int(rng.random() * len(WORLDS))
        ops = with_nearest_actors(ops, world)
    turns = 1
    while turns < 6 and rng.random() < 0.45:
        turns += 1
    for _ in range(turns):
        if not ops:
            ops = with_insertion(grammar, rng, world, ops, 0)
            continue
        ops = _MUTATORS.choose(rng)(grammar, rng, world, ops)
    return Program(world, tuple(ops[:MAX_OPS]))


def crossover(a: Program, b: Program, rng: Random, catalogue: Catalogue) -> Program:
    """A well-formed program made of parts of both, in one of their worlds.

    A reference whose op is left out refers to another op that produces the same resource (see `arrange`).
    """
    world = a.world if rng.random() < 0.7 else b.world
    split = len(a.ops)
    both = [*a.ops, *shift_references(b.ops, 0, split)]
    end = len(both)
    if a.world != b.world:
        both = with_nearest_actors(both, world)
    choice = rng.random()
    cut = int(rng.random() * (split + 1))
    start = split + int(rng.random() * (end - split + 1))
    if choice < 0.35:
        # The start of `a`, the end of `b`.
        order = [*range(cut), *range(start, end)]
    elif choice < 0.7:
        # A part of `b`, within `a`.
        stop = start + int(rng.random() * (end - start + 1))
        order = [*range(cut), *range(start, stop), *range(cut, split)]
    elif choice < 0.85:
        order = [*range(end)]
    else:
        # Interleaved, as two guests that run at the same time.
        left, right, order = 0, split, []
        while left < split or right < end:
            if right == end or (left < split and rng.random() * end < split):
                order.append(left)
                left += 1
            else:
                order.append(right)
                right += 1
    return Program(world, tuple(arrange(both, order)))
