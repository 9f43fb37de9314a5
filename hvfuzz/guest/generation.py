"""Generates programs whose ops depend on each other: producers before consumers, values that keep meeting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from hvfuzz.abi.boot import DIRECT_MAP, DIRECT_MAP_SIZE, WORLDS
from hvfuzz.guest.compose import compose, extend
from hvfuzz.guest.context import Context
from hvfuzz.guest.grammar import grammar
from hvfuzz.guest.hostile import squashed, with_mangle, with_race
from hvfuzz.guest.ops import DEVICE_REGISTERS, Catalogue, OpKind
from hvfuzz.guest.program import MAX_OPS, Actor, Op, Program
from hvfuzz.machine.addresses import PAGE_SHIFT

USUAL_OPS: Final = 16
"""A generated program has about 1 to this many ops, if nothing is said."""
_RACED: Final = 0.06
_MANGLED: Final = 0.04
_IDIOM: Final = 0.3


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
    length = 1 + int(rng.random() * USUAL_OPS) if ops is None else ops
    world = worlds[int(rng.random() * len(worlds))] if worlds else int(rng.random() * len(WORLDS))
    context = Context(grammar(catalogue, kinds), rng, world, [])
    while len(context.ops) < length:
        grow(context)
    return Program(world, tuple(context.ops[:MAX_OPS]))


def grow(context: Context) -> None:
    """Append something of use: an op with what it needs, or a few ops that belong together."""
    choice = context.rng.random()
    if choice < _IDIOM:
        context.pick(_IDIOMS)(context)
        return
    kind = context.grammar.kind(context.rng)
    if kind.follow is not None:
        batch(context, kind)
        return
    if kind.family == "raw" and context.chance(0.7):
        # A call that could be a good one, taken apart.
        op = squashed(context, compose(context, context.grammar.kind(context.rng)))
        context.append(op)
        return
    op = extend(context, kind)
    if choice > 1 - _RACED:
        context.ops[-1] = with_race(context_before(context), op)
    elif choice > 1 - _RACED - _MANGLED:
        context.ops[-1] = with_mangle(context, op)


def context_before(context: Context) -> Context:
    """The context of the last op: a race of it cannot use its result."""
    return Context(context.grammar, context.rng, context.world, context.ops[:-1], context.ops)


def batch(context: Context, kind: OpKind) -> None:
    """Append a multicall and the calls that it takes as entries."""
    op = compose(context, kind)
    context.append(op)
    position = kind.index["count"]
    count = op.values[position]
    if op.values[kind.follow or 0] != 0 or not isinstance(count, int):
        return
    calls = [each for each in (context.grammar.kind(context.rng) for _ in range(2 * count)) if each.number is not None]
    for each in calls[:count]:
        if each.follow is None:
            context.append(compose(context, each, op.actor))


def story(context: Context) -> None:
    """Append what happens to some frames: ops about them and accesses to them, mostly by the domain they are of."""
    kinds = context.grammar.framed
    if not kinds:
        return
    begin = context.grammar.fillers if context.chance(0.45) else ()
    op = extend(context, context.pick(begin or kinds))
    frames = context.frames_of(op)
    if frames is None:
        return
    context.focus = frames
    for _ in range(1 + context.below(4)):
        actor = context.actor(op.actor.domain if context.chance(0.85) else None)
        choice = context.rng.random()
        if choice < 0.3:
            touch(context, actor, DIRECT_MAP + (frames[0] << PAGE_SHIFT) % DIRECT_MAP_SIZE)
        elif choice < 0.42 and context.grammar.mappers:
            # Until the pool of table pages is exhausted: what follows has to cope without.
            mapper = extend(context, context.pick(context.grammar.mappers), actor)
            for again in march(context, mapper, context.pick((4, 8, 16))):
                context.append(again)
        else:
            # The same call again, with other arguments, undoes and redoes.
            last = context.ops[-1].kind
            same = last in kinds and context.chance(0.45)
            extend(context, last if same else context.pick(kinds), actor)
    context.focus = None


def touch(context: Context, actor: Actor, address: int) -> None:
    """Append a load of, or a store to, that address."""
    load, store = context.grammar.allowed("load"), context.grammar.allowed("store")
    if store is not None and (load is None or context.chance(0.4)):
        context.append(Op(store, actor, (address, 8, context.below(256))))
    elif load is not None:
        context.append(Op(load, actor, (address, 8)))


def program_device(context: Context) -> None:
    """Append what a driver does to make a device copy: write its registers, then start it."""
    kind = context.grammar.allowed("mmio_write")
    owners = [number for number, domain in enumerate(context.domains) if domain.devices]
    if kind is None or not owners:
        return
    actor = context.actor(context.pick(owners))
    device = context.pick(context.domains[actor.domain].devices)
    pool = context.pool("iova")
    for register in ("SRC", "DST", "LENGTH", "CONTROL"):
        if register in ("SRC", "DST"):
            value = context.pick(pool) if pool and context.chance(0.7) else context.below(6) << PAGE_SHIFT
        else:
            value = context.pick((8, 64, 4096)) if register == "LENGTH" else 1
        context.append(Op(kind, actor, (device, DEVICE_REGISTERS[register], 8, value)))


def repeat(context: Context) -> None:
    """Append an op several times: tables fill up, pools run out, work adds up."""
    if context.ops and context.chance(0.6):
        op = context.pick(context.ops)
        if context.grammar.weights[op.kind] == 0:
            return
    else:
        op = extend(context, context.grammar.kind(context.rng))
    for again in march(context, op, context.pick((2, 3, 4, 8, 16, 20))):
        context.append(again)


def march(context: Context, op: Op, times: int) -> list[Op]:
    """`op` that many times more, mostly with a frame or an address that moves on each time."""
    spots = context.grammar.traits[op.kind].spots
    moving = [
        (at, context.pick(strides))
        for pool, strides in _STRIDES
        for at in spots.get(pool, ())
        if isinstance(op.values[at], int)
    ]
    if len(moving) > 1 and context.chance(0.5):
        moving = [context.pick(moving)]
    steps = dict(moving) if context.chance(0.9) else {}
    marched: list[Op] = []
    values = list(op.values)
    for _ in range(times):
        for at, step in steps.items():
            value = values[at]
            if isinstance(value, int):
                values[at] = value + step & op.kind.fields[at].kind.maximum
        marched.append(op._replace(values=tuple(values), race=None))
    return marched


_STRIDES: Final = (
    ("gfn", (1, 1, 1, 2, 512)),
    ("iova", (0x1000, 0x1000, 1 << 21, 1 << 30, 1 << 30)),
    ("gva", (0, 8, 0x1000)),
    ("msr", (1,)),
    ("io_port", (0, 1)),
    ("handle", (1,)),
    ("port", (1, 32)),
    ("grant_ref", (1,)),
)
_IDIOMS: Final = (story, story, story, program_device, repeat)
