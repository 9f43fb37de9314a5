"""Losses of cached translations, placed around the ops that change or use translations."""

from __future__ import annotations

from typing import Final

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import Op
from hvfuzz.machine.cached_entries import Cache

_PROCESSORS: Final = (Cache.TLB, Cache.PAGING)
_DEVICES: Final = (Cache.IOTLB, Cache.CONTEXT)
_ACCESSES: Final = ("access", "paging")
"""Families of instructions that fill or invalidate the caches of a processor."""


def caches_of(context: Context, kind: OpKind) -> tuple[Cache, ...]:
    """The caches that ops of this kind fill, use or invalidate."""
    positions = context.grammar.traits[kind].positions
    found: tuple[Cache, ...] = ()
    if "gfn" in positions or kind.family in _ACCESSES:
        found += _PROCESSORS
    if "iova" in positions or "device" in positions:
        found += _DEVICES
    return found


def loss(context: Context, op: Op) -> Op | None:
    """An op that drops entries of a cache that concerns `op`; None if none does, or the weights allow none."""
    caches = caches_of(context, op.kind)
    kinds = [kind for name in ("retain", "evict") if (kind := context.grammar.allowed(name)) is not None]
    if not caches or not kinds:
        return None
    kind = context.pick(kinds)
    # The newest entries are those that the ops just before have made.
    entry = context.below(8) if context.chance(0.5) else context.below(256)
    return Op(kind, op.actor, (int(context.pick(caches)), entry))


def lose_around_last(context: Context) -> None:
    """Drop cached entries just before the last op or just after it, sometimes both."""
    op = context.ops[-1]
    where = context.below(3)
    before = loss(context, op) if where != 1 else None
    after = loss(context, op) if where else None
    if before is not None:
        context.ops[-1] = before
        context.append(op)
    if after is not None:
        context.append(after)
