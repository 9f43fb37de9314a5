"""Ops that come again."""

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
"""How far a value moves on, by the pool that it is of."""
CONTIGUOUS_STRIDES: Final[_Strides] = (
    ("gfn", (1,)),
    ("iova", (0x1000,)),
    ("handle", (1,)),
    ("port", (1,)),
    ("grant_ref", (1,)),
)
"""One thing after another, so that a single call can be about all of them."""
SPARSE_STRIDES: Final[_Strides] = (("iova", (1 << 21, 1 << 30, 1 << 30)),)
"""Each needs tables of its own."""


def strided_copies(context: Context, op: Op, times: int, strides: _Strides = DEFAULT_STRIDES) -> list[Op]:
    """`op` that many times more, mostly with a frame or an address that moves on each time."""
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
    marched: list[Op] = []
    values = list(op.values)
    for _ in range(times):
        for at, step in steps.items():
            value = values[at]
            if isinstance(value, int):
                values[at] = value + step & op.kind.fields[at].kind.maximum
        marched.append(op._replace(values=tuple(values), race=None))
    return marched


def repeat_op(context: Context) -> None:
    """Append an op several times: tables fill up, pools run out, work adds up."""
    if context.ops and context.chance(0.6):
        op = context.pick(context.ops)
        if context.grammar.weights[op.kind] == 0:
            return
    else:
        op = append_with_prerequisites(context, context.grammar.choose_kind(context.rng))
    for again in strided_copies(context, op, context.pick((2, 3, 4, 8, 16, 20))):
        context.append(again)


def change_and_restore(context: Context, op: Op) -> None:
    """Append `op` done in another way, and mostly as it was once more: what was taken apart comes together again."""
    context.careful = context.chance(0.8)
    context.append(with_changed_argument(context, op._replace(race=None), context.grammar.traits[op.kind].mode_fields))
    context.careful = False
    if context.chance(0.7):
        context.append(op)


def toggle_mode(context: Context) -> None:
    """Append an op, the same in another way, and mostly the first once more."""
    kinds = context.grammar.mode_kinds
    if kinds:
        change_and_restore(context, append_with_prerequisites(context, context.pick(kinds)))
