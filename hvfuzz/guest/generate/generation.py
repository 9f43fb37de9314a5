"""Generates programs whose ops depend on each other: producers before consumers, values that keep meeting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.generate.compose import compose
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.mangled_calls import as_raw_call, with_mangle
from hvfuzz.guest.generate.prerequisites import append_with_prerequisites
from hvfuzz.guest.generate.races import with_race
from hvfuzz.guest.generate.template_table import TEMPLATES
from hvfuzz.guest.grammar.grammar import grammar_for
from hvfuzz.guest.grammar.weighted_choice import WeightedChoice
from hvfuzz.guest.program.ops import Catalogue, OpKind
from hvfuzz.guest.program.program import MAX_OPS, Program

DEFAULT_LENGTH: Final = 16
"""A generated program has about 1 to this many ops, if nothing is said."""
_RACE_SHARE: Final = 0.06
_MANGLE_SHARE: Final = 0.04
_TEMPLATE_SHARE: Final = 0.35
_STEP_CAP: Final = 6
"""As how many ops those count that are added together."""

_TEMPLATES: Final = WeightedChoice(TEMPLATES)


def generate(
    rng: Random,
    catalogue: Catalogue,
    *,
    ops: int | None = None,
    kinds: Mapping[str, int] | None = None,
    worlds: Sequence[int] | None = None,
) -> Program:
    """A well-formed program of about `ops` ops; the same one for the same state of `rng`.

    `kinds` weighs kinds of ops or families (see Grammar, which also says which weights are a ValueError);
    `worlds` are the worlds to start in (any).
    """
    length = 1 + int(rng.random() * DEFAULT_LENGTH) if ops is None else ops
    world = worlds[int(rng.random() * len(worlds))] if worlds else int(rng.random() * len(WORLDS))
    context = Context(grammar_for(catalogue, kinds), rng, world, [])
    said = 0
    while said < length:
        before = len(context.ops)
        append_step(context)
        # A march says little more than a few of its ops would.
        said += min(len(context.ops) - before, _STEP_CAP)
    return Program(world, tuple(context.ops[:MAX_OPS]))


def append_step(context: Context) -> None:
    """Append something of use: an op with what it needs, or a few ops that belong together."""
    choice = context.rng.random()
    if choice < _TEMPLATE_SHARE:
        _TEMPLATES.choose(context.rng)(context)
        return
    kind = context.grammar.choose_kind(context.rng)
    if kind.follow is not None:
        append_multicall(context, kind)
        return
    if kind.family == "raw" and context.chance(0.7):
        # A call that could be a good one, taken apart.
        op = as_raw_call(context, compose(context, context.grammar.choose_kind(context.rng)))
        context.append(op)
        return
    op = append_with_prerequisites(context, kind)
    if choice > 1 - _RACE_SHARE:
        context.ops[-1] = with_race(_context_before(context), op)
    elif choice > 1 - _RACE_SHARE - _MANGLE_SHARE:
        context.ops[-1] = with_mangle(context, op)


def _context_before(context: Context) -> Context:
    """The context of the last op: a race of it cannot use its result."""
    return Context(context.grammar, context.rng, context.world, context.ops[:-1], context.ops)


def append_multicall(context: Context, kind: OpKind) -> None:
    """Append a multicall and the calls that it takes as entries."""
    op = compose(context, kind)
    context.append(op)
    position = kind.index["count"]
    count = op.values[position]
    if op.values[kind.follow or 0] != 0 or not isinstance(count, int):
        return
    calls = [
        each for each in (context.grammar.choose_kind(context.rng) for _ in range(2 * count)) if each.number is not None
    ]
    for each in calls[:count]:
        if each.follow is None:
            context.append(compose(context, each, op.actor))
