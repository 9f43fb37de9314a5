"""Denials of memory, placed before the calls that ask for it: only there do they reach anything."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.status import Status
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import Op

SHORTAGES: Final = frozenset((Status.NO_MEMORY, Status.NO_POOL))
"""The statuses of a call that finds no memory: a call that can return one asks for some."""
_REQUESTS: Final = (0, 0, 0, 1, 1, 2, 3, 4)
_RETRY: Final = 0.5
"""Share of denied calls that are made again: nothing may be left of the first attempt."""


def asks_for_memory(kind: OpKind) -> bool:
    """Whether an op of this kind may ask the hypervisor for memory: such a call, or a batch of calls."""
    declaration = kind.declaration
    return declaration is not None and (kind.follow is not None or not SHORTAGES.isdisjoint(declaration.errors))


def denial(context: Context, op: Op) -> Op | None:
    """The op that has a request of `op`, which follows, fail; None if the weights allow none."""
    kind = context.grammar.allowed("deny")
    if kind is None:
        return None
    request = context.pick(_REQUESTS)
    count = context.grammar.traits[op.kind].count
    if count is not None and op.kind.follow is None and context.chance(0.5):
        pieces = op.values[count]
        if isinstance(pieces, int) and pieces <= max(kind.fields[0].kind.edges):
            request = context.below(pieces + 3)  # The frames, then some table pages.
    return Op(kind, op.actor, (request,))


def deny_last(context: Context) -> None:
    """Have a request of the last op fail, if it asks for memory; then often repeat the op."""
    op = context.ops[-1]
    if not asks_for_memory(op.kind):
        return
    before = denial(context, op)
    if before is None:
        return
    context.ops[-1] = before
    context.append(op)
    if context.chance(_RETRY):
        context.append(op._replace(race=None))
