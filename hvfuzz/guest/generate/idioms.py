"""Runs of ops that belong together: what memory managers, drivers and attackers do in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hvfuzz.abi.boot import DIRECT_MAP, DIRECT_MAP_SIZE, DMA_ENGINES
from hvfuzz.abi.limits import GRANTS, HANDLES, PORTS
from hvfuzz.guest.generate.compose import NEEDED, compose, extend, map_for_device
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.drivers import model_story, virtio_story
from hvfuzz.guest.mutate.argument_mutators import tweaked
from hvfuzz.guest.program.ops import DEVICE_REGISTERS, SIZES
from hvfuzz.guest.program.program import Actor, Op, Ref
from hvfuzz.machine.addresses import PAGE_SHIFT

_Strides = tuple[tuple[str, tuple[int, ...]], ...]

STRIDES: Final[_Strides] = (
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
DENSE: Final[_Strides] = (("gfn", (1,)), ("iova", (0x1000,)), ("handle", (1,)), ("port", (1,)), ("grant_ref", (1,)))
"""One thing after another, so that a single call can be about all of them."""
SPARSE: Final[_Strides] = (("iova", (1 << 21, 1 << 30, 1 << 30)),)
"""Each needs tables of its own."""
_LAST: Final = 0.7
"""How often care is taken with the end of a story: nothing depends on it."""
_WHOLE: Final = (GRANTS + 1, HANDLES + 1, PORTS + 1)


def march(context: Context, op: Op, times: int, strides: _Strides = STRIDES) -> list[Op]:
    """`op` that many times more, mostly with a frame or an address that moves on each time."""
    spots = context.grammar.traits[op.kind].spots
    moving = [
        (at, context.pick(steps))
        for pool, steps in strides
        for at in spots.get(pool, ())
        if isinstance(op.values[at], int)
    ]
    if strides is STRIDES and len(moving) > 1 and context.chance(0.5):
        moving = [context.pick(moving)]
    steps = dict(moving) if strides is not STRIDES or context.chance(0.9) else {}
    marched: list[Op] = []
    values = list(op.values)
    for _ in range(times):
        for at, step in steps.items():
            value = values[at]
            if isinstance(value, int):
                values[at] = value + step & op.kind.fields[at].kind.maximum
        marched.append(op._replace(values=tuple(values), race=None))
    return marched


def story(context: Context) -> None:
    """Append what happens to some frames: ops about them and accesses to them, mostly by the domain they are of."""
    kinds = context.grammar.framed
    if not kinds:
        return
    begin = context.grammar.fillers if context.chance(0.45) else ()
    context.large = context.chance(0.2)
    op = extend(context, context.pick(begin or kinds), careful=NEEDED)
    context.large = False
    frames = context.frames_of(op)
    if frames is None:
        return
    context.focus = frames
    if context.chance(0.5):
        # A few calls that come again and again meet each other sooner than all of them would.
        kinds = tuple(context.pick(kinds) for _ in range(3))
    for left in range(1 + context.below(4), -1, -1):
        actor = context.actor(op.actor.domain if context.chance(0.85) else None)
        choice = context.rng.random()
        if choice < 0.3:
            touch(context, actor, DIRECT_MAP + (frames[0] << PAGE_SHIFT) % DIRECT_MAP_SIZE)
        else:
            if choice < 0.4:
                starve(context, actor)
            # The same call again, with other arguments, undoes and redoes.
            last = context.ops[-1].kind
            same = last in kinds and context.chance(0.25)
            done = extend(context, last if same else context.pick(kinds), actor, careful=NEEDED if left else _LAST)
            if context.chance(0.45):
                there_and_back(context, done)
    context.focus = None


def touch(context: Context, actor: Actor, address: int) -> None:
    """Append a load of, or a store to, that address."""
    load, store = context.grammar.allowed("load"), context.grammar.allowed("store")
    if store is not None and (load is None or context.chance(0.4)):
        context.append(Op(store, actor, (address, 8, context.below(256))))
    elif load is not None:
        context.append(Op(load, actor, (address, 8)))


def starve(context: Context, actor: Actor) -> None:
    """Append device mappings until the domain's pool of table pages is empty: what follows has to cope without."""
    mappers = context.grammar.mappers
    if mappers:
        mapper = map_for_device(context, actor)
        for again in march(context, mapper, context.pick((7, 8, 16)), SPARSE):
            context.append(again)


def there_and_back(context: Context, op: Op) -> None:
    """Append `op` done in another way, and mostly as it was once more: what was taken apart comes together again."""
    context.careful = context.chance(0.8)
    context.append(tweaked(context, op._replace(race=None), context.grammar.traits[op.kind].manner))
    context.careful = False
    if context.chance(0.7):
        context.append(op)


def toggle(context: Context) -> None:
    """Append an op, the same in another way, and mostly the first once more."""
    kinds = context.grammar.settings
    if kinds:
        there_and_back(context, extend(context, context.pick(kinds)))


def device_story(context: Context) -> None:
    """Append what happens to a device address: it is mapped, used, and changed, and so is the frame behind it."""
    kinds = context.grammar.addressed
    if not context.grammar.mappers:
        return
    owners = [number for number, domain in enumerate(context.domains) if domain.devices]
    actor = context.actor(context.pick(owners) if owners and context.chance(0.9) else None)
    mapper = map_for_device(context, actor)
    iova = mapper.values[context.grammar.traits[mapper.kind].spots["iova"][0]]
    context.device_focus = iova if isinstance(iova, int) else None
    context.focus = context.frames_of(mapper)
    for left in range(1 + context.below(4), -1, -1):
        choice = context.rng.random()
        if choice < 0.15:
            program_device(context, actor)
        elif choice < 0.3 and context.grammar.framed:
            extend(context, context.pick(context.grammar.framed), actor, careful=NEEDED if left else _LAST)
        else:
            extend(context, context.pick(kinds), actor, careful=NEEDED if left else _LAST)
    context.focus = context.device_focus = None


def program_device(context: Context, actor: Actor | None = None) -> None:
    """Append what a driver does to make a device copy: write its registers, start it, and mostly look at one."""
    kind = context.grammar.allowed("mmio_write")
    engines = {
        number: [device for device in domain.devices if device < DMA_ENGINES]
        for number, domain in enumerate(context.domains)
    }
    owners = [number for number, devices in engines.items() if devices]
    if kind is None or not owners:
        return
    if actor is None or not engines[actor.domain]:
        actor = context.actor(context.pick(owners))
    device = context.pick(engines[actor.domain])
    pool = context.pool("iova")
    for register in ("SRC", "DST", "LENGTH", "CONTROL"):
        if register in ("SRC", "DST"):
            value = context.pick(pool) if pool and context.chance(0.7) else context.below(6) << PAGE_SHIFT
        else:
            value = context.pick((8, 64, 4096)) if register == "LENGTH" else 1
        context.append(Op(kind, actor, (device, DEVICE_REGISTERS[register], 8, value)))
    read = context.grammar.allowed("mmio_read")
    if read is not None and context.chance(0.6):
        register = context.pick(tuple(DEVICE_REGISTERS))
        context.append(Op(read, actor, (device, DEVICE_REGISTERS[register], context.pick(SIZES))))


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


def resource_story(context: Context) -> None:
    """Append what happens to a resource: it is made, used and given back, and something else gets its memory."""
    grammar = context.grammar
    if not grammar.producers:
        return
    op = extend(context, context.pick(grammar.producers), careful=NEEDED)
    made = len(context.ops) - 1
    kinds = grammar.consumers[op.kind.produces or ""]
    for _ in range(1 + context.below(3)):
        used = extend(context, context.pick(kinds), careful=NEEDED, sources=(made,))
        if context.chance(0.15):
            there_and_back(context, used)
    choice = context.rng.random()
    if choice < 0.4 and grammar.fillers:
        extend(context, context.pick(grammar.fillers), careful=NEEDED)
    elif choice < 0.6:
        extend(context, op.kind, op.actor)


def pile(context: Context) -> None:
    """Append one op after another that make things of one sort, and then one that is about all of them."""
    grammar = context.grammar
    if not grammar.piled:
        return
    kinds = grammar.makers if grammar.makers and context.chance(0.35) else grammar.piled
    op = extend(context, context.pick(kinds), careful=NEEDED)
    first = len(context.ops) - 1
    # Rarely a little more than a table has entries.
    times = context.pick((3, 7, 7, 15, 15, 19)) if context.chance(0.97) else context.pick(_WHOLE)
    for again in march(context, op, times, DENSE):
        context.append(again)
    made = op.kind.produces
    pools = [pool for pool in grammar.traits[op.kind].spots if pool in grammar.sweepers]
    wanted = made if made in grammar.sweepers and context.chance(0.8) else context.pick(pools) if pools else made
    if wanted is None or wanted not in grammar.sweepers:
        if made in grammar.consumers:
            context.append(compose(context, context.pick(grammar.consumers[made]), op.actor, sources=(first,)))
        return
    kind = context.pick(grammar.sweepers[wanted])
    sweep = compose(context, kind, op.actor)
    traits = grammar.traits[kind]
    values = list(sweep.values)
    at = traits.spots[wanted][0]
    if wanted == made:
        values[at] = Ref(first)
    else:
        begin = op.values[grammar.traits[op.kind].spots[wanted][0]]
        if not isinstance(begin, int):
            return
        values[at] = begin
    if traits.count is not None:
        values[traits.count] = context.pick((times + 1, times + 1, 1 + context.below(times + 1)))
    context.append(sweep._replace(values=tuple(values)))


def user_mode(context: Context) -> None:
    """Append what user code does on its own: instructions of which some exit, and some are not for it."""
    sysret, syscall = context.grammar.allowed("sysret"), context.grammar.allowed("syscall")
    if sysret is None:
        return
    actor = context.actor()
    context.append(Op(sysret, actor, ()))
    instructions, traps = context.grammar.instructions, context.grammar.traps
    for _ in range(1 + context.below(4)):
        if context.chance(0.1):
            extend(context, context.grammar.kind(context.rng), actor)
        else:
            extend(context, context.pick(traps if traps and context.chance(0.6) else instructions), actor)
    if syscall is not None and context.chance(0.7):
        context.append(Op(syscall, actor, ()))


IDIOMS: Final[Sequence[Callable[[Context], None]]] = (
    *(story, story, story, story, story, story),
    *(device_story, device_story, device_story),
    *(resource_story, resource_story),
    pile,
    program_device,
    repeat,
    toggle,
    user_mode,
    virtio_story,
    model_story,
)
