"""Templates of the life of frames: a few populated, accessed, shared, protected, released; many in one long call."""

from __future__ import annotations

from hvfuzz.abi.boot import DIRECT_MAP, DIRECT_MAP_SIZE
from hvfuzz.abi.limits import POPULATE
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import CAREFUL_LAST, CAREFUL_PREREQUISITE, with_fields
from hvfuzz.guest.generate.prerequisites import append_with_prerequisites
from hvfuzz.guest.generate.races import with_race
from hvfuzz.guest.generate.templates.repetition import change_and_restore
from hvfuzz.guest.generate.templates.table_exhaustion import exhaust_page_table_pool
from hvfuzz.guest.program.program import Actor, Op, Point
from hvfuzz.machine.addresses import PAGE_SHIFT


def frame_lifecycle(context: Context) -> None:
    """Append ops on one range of frames, and accesses to it, mostly by the domain that owns it."""
    kinds = context.grammar.frame_kinds
    if not kinds:
        return
    begin = context.grammar.populating_kinds if context.chance(0.45) else ()
    context.large_blocks = context.chance(0.2)
    op = append_with_prerequisites(context, context.pick(begin or kinds), careful=CAREFUL_PREREQUISITE)
    context.large_blocks = False
    frames = context.frames_of(op)
    if frames is None:
        return
    context.frame_focus = frames
    if context.chance(0.5):
        # Three kinds interact sooner than all kinds would.
        kinds = tuple(context.pick(kinds) for _ in range(3))
    for left in range(1 + context.below(4), -1, -1):
        actor = context.actor(op.actor.domain if context.chance(0.85) else None)
        choice = context.rng.random()
        if choice < 0.3:
            append_access(context, actor, DIRECT_MAP + (frames[0] << PAGE_SHIFT) % DIRECT_MAP_SIZE)
        else:
            if choice < 0.4:
                exhaust_page_table_pool(context, actor)
            # The last call with other arguments often undoes or redoes it.
            last = context.ops[-1].kind
            same = last in kinds and context.chance(0.25)
            done = append_with_prerequisites(
                context,
                last if same else context.pick(kinds),
                actor,
                careful=CAREFUL_PREREQUISITE if left else CAREFUL_LAST,
            )
            if context.chance(0.45):
                change_and_restore(context, done)
    context.frame_focus = None


def long_call(context: Context) -> None:
    """Append calls that populate 128 pages or more, accesses to some, and a call on more than one quota of them."""
    allowed = context.grammar.allowed
    populate = allowed("memory.populate")
    long_calls = [kind for kind in map(allowed, ("memory.protect", "memory.decrease")) if kind is not None]
    if populate is None or not long_calls or "order" not in populate.index:
        return
    actor = context.actor()
    first = 0x100 + 0x40 * context.below(8)
    pages = POPULATE * (2 + context.below(3))
    for start in range(first, first + pages, POPULATE):
        context.append(with_fields(populate, actor, first=start, count=POPULATE))
    for _ in range(context.below(3)):
        append_access(context, actor, DIRECT_MAP + (first + context.below(pages) << PAGE_SHIFT))
    kind = context.pick(long_calls)
    count = min(POPULATE + 1 + context.below(pages), pages)
    op = with_fields(kind, actor, first=first, count=count, rights=context.pick((1, 3, 5, 7)))
    context.append(with_race(context, op, Point.STEP) if context.chance(0.5) else op)


def append_access(context: Context, actor: Actor, address: int) -> None:
    """Append a load from, or a store to, the Gva `address`."""
    load, store = context.grammar.allowed("load"), context.grammar.allowed("store")
    if store is not None and (load is None or context.chance(0.4)):
        context.append(Op(store, actor, (address, 8, context.below(256))))
    elif load is not None:
        context.append(Op(load, actor, (address, 8)))
