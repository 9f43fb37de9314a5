"""Templates that repeat an op, unchanged, with addresses that advance, or with other flags."""

from __future__ import annotations

from typing import Final

from hvfuzz.guest.generate.argument_variation import with_changed_argument
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.prerequisites import append_with_prerequisites
from hvfuzz.guest.program.program import Op

_Strides = tuple[tuple[str, tuple[int, ...]], ...]
DEFAULT_STRIDES: Final[_Strides] = (
    ("gfn", (1, 1, 1, 2, 512)),
    ("iova", (0x1000, 0x1000, 1 << 21, 1 << 30, 1 << 30)),
    ("gva", (0, 8, 0x1000)),
    ("msr", (1,)),
    ("io_port", (0, 1)),
    ("handle", (1,)),
    ("port", (1, 32)),
    ("grant_ref", (1,)),
)
"""(Pool, possible steps): how far a value of the pool may advance from one copy to the next."""
CONTIGUOUS_STRIDES: Final[_Strides] = (
    ("gfn", (1,)),
    ("iova", (0x1000,)),
    ("handle", (1,)),
    ("port", (1,)),
    ("grant_ref", (1,)),
)
"""Adjacent values, so that one call can take the whole range."""
SPARSE_STRIDES: Final[_Strides] = (("iova", (1 << 21, 1 << 30, 1 << 30)),)
"""Distant device addresses, whose mappings share no page of the lowest tables."""


def strided_copies(context: Context, op: Op, times: int, strides: _Strides = DEFAULT_STRIDES) -> list[Op]:
    """`times` copies of `op`, mostly with a frame number or an address that advances from copy to copy."""
    spots = context.grammar.traits[op.kind].positions
    moving = [
        (at, context.pick(steps))
        for pool, steps in strides
        for at in spots.get(pool, ())
        if isinstance(op.values[at], int)
    ]
    if strides is DEFAULT_STRIDES and len(moving) > 1 and context.chance(0.5):
        moving = [context.pick(moving)]
    steps = dict(moving) if strides is not DEFAULT_STRIDES or context.chance(0.9) else {}
    copies: list[Op] = []
    values = list(op.values)
    for _ in range(times):
        for at, step in steps.items():
            value = values[at]
            if isinstance(value, int):
                values[at] = value + step & op.kind.fields[at].kind.maximum
        copies.append(op._replace(values=tuple(values), race=None))
    return copies


def repeat_op(context: Context) -> None:
    """Append copies of an op, which fill tables, empty pools and accumulate work."""
    if context.ops and context.chance(0.6):
        op = context.pick(context.ops)
        if context.grammar.weights[op.kind] == 0:
            return
    else:
        op = append_with_prerequisites(context, context.grammar.choose_kind(context.rng))
    for again in strided_copies(context, op, context.pick((2, 3, 4, 8, 16, 20))):
        context.append(again)


def change_and_restore(context: Context, op: Op) -> None:
    """Append `op` with one of its mode fields changed, then mostly `op` itself, which may undo the change."""
    context.careful = context.chance(0.8)
    context.append(with_changed_argument(context, op._replace(race=None), context.grammar.traits[op.kind].mode_fields))
    context.careful = False
    if context.chance(0.7):
        context.append(op)


def toggle_mode(context: Context) -> None:
    """Append an op, the op with one mode field changed, and mostly the op again."""
    kinds = context.grammar.mode_kinds
    if kinds:
        change_and_restore(context, append_with_prerequisites(context, context.pick(kinds)))
