"""Generates programs step by step: templates, or single ops after the producers of the resources that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.interference.denied_requests import denial, deny_last
from hvfuzz.guest.generate.interference.lost_entries import lose_around_last
from hvfuzz.guest.generate.mangled_calls import as_raw_call, with_mangle
from hvfuzz.guest.generate.op_composition import compose
from hvfuzz.guest.generate.prerequisites import append_with_prerequisites
from hvfuzz.guest.generate.races import with_race
from hvfuzz.guest.generate.templates.template_table import TEMPLATES
from hvfuzz.guest.grammar.grammar import grammar_for
from hvfuzz.guest.grammar.weighted_choice import WeightedChoice
from hvfuzz.guest.program.ops import Catalogue, OpKind
from hvfuzz.guest.program.program import MAX_OPS, Program

DEFAULT_LENGTH: Final = 16
"""Upper bound of a program's random length in ops, if the caller gives no length."""
# Fractions of all steps.
_TEMPLATE_SHARE: Final = 0.35
_RACE_SHARE: Final = 0.06
_MANGLE_SHARE: Final = 0.04
_RACED_TEMPLATES: Final = 0.2
"""Fraction of the templates: what they prepare lets an op succeed, and a race meets an op that changes something."""
_RACED_MULTICALLS: Final = 0.2
"""Fraction of the multicalls: between two entries there is always a preemption point."""
_DENIAL_SHARE: Final = 0.06
_LOSS_SHARE: Final = 0.04
_STEP_CAP: Final = 6
"""Most ops for which one step counts towards the length: a repetition of 20 ops exercises little more than six."""
_TEMPLATES: Final = WeightedChoice(TEMPLATES)


def generate(
    rng: Random,
    catalogue: Catalogue,
    *,
    ops: int | None = None,
    weights: Mapping[str, int] | None = None,
    worlds: Sequence[int] | None = None,
) -> Program:
    """A well-formed program of about `ops` ops; the same program for the same state of `rng`.

    `weights` are by name or family of the op kind (see Grammar, which raises ValueError for bad ones).
    `worlds` are the worlds to choose from; None means all.
    """
    length = 1 + int(rng.random() * DEFAULT_LENGTH) if ops is None else ops
    world = worlds[int(rng.random() * len(worlds))] if worlds else int(rng.random() * len(WORLDS))
    context = Context(grammar_for(catalogue, weights), rng, world, [])
    done = 0
    while done < length:
        before = len(context.ops)
        append_step(context)
        done += min(len(context.ops) - before, _STEP_CAP)
        if len(context.ops) > before:
            interfere_with_last(context)
    return Program(world, tuple(context.ops[:MAX_OPS]))


def append_step(context: Context) -> None:
    """Append the ops of one template, or one op with its prerequisites, sometimes raced or mangled."""
    choice = context.rng.random()
    if choice < _TEMPLATE_SHARE:
        start = len(context.ops)
        _TEMPLATES.choose(context.rng)(context)
        if context.chance(_RACED_TEMPLATES):
            _race_one(context, start)
        return
    kind = context.grammar.choose_kind(context.rng)
    if kind.follow is not None:
        start = len(context.ops)
        append_multicall(context, kind)
        if context.chance(_RACED_MULTICALLS):
            _race_at(context, start + (context.ops[start].kind is not kind))  # A denial may come before it.
        return
    if kind.family == "raw" and context.chance(0.7):
        # A well-formed call, as raw words for mutators to change.
        op = as_raw_call(context, compose(context, context.grammar.choose_kind(context.rng)))
        context.append(op)
        return
    op = append_with_prerequisites(context, kind)
    if choice > 1 - _RACE_SHARE:
        _race_at(context, len(context.ops) - 1)
    elif choice > 1 - _RACE_SHARE - _MANGLE_SHARE:
        context.ops[-1] = with_mangle(context, op)


def _race_at(context: Context, at: int) -> None:
    """Race the op with this index. The race must not refer to its result, or to that of a later op."""
    ops = context.ops
    before = Context(context.grammar, context.rng, context.world, ops[:at], ops)
    ops[at] = with_race(before, ops[at])


def _race_one(context: Context, start: int) -> None:
    """Race one of the ops from `start` on that has no race yet: the last ones are what the others prepare."""
    free = [at for at in range(start, len(context.ops)) if context.ops[at].race is None]
    if free:
        _race_at(context, free[-1 - min(context.below(4), context.below(len(free)))])


def interfere_with_last(context: Context) -> None:
    """Sometimes deny the last op some memory, or drop cached translations around it."""
    choice = context.rng.random()
    if choice < _DENIAL_SHARE:
        deny_last(context)
    elif choice < _DENIAL_SHARE + _LOSS_SHARE:
        lose_around_last(context)


def append_multicall(context: Context, kind: OpKind) -> None:
    """Append a multicall and the calls that it takes as entries."""
    op = compose(context, kind)
    before = denial(context, op) if context.chance(_DENIAL_SHARE) else None
    if before is not None:
        context.append(before)
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
