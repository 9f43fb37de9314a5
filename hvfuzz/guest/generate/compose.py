"""Composes ops whose arguments fit together, with the ops before them that they need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hvfuzz.abi.limits import LARGE_ORDER, SELF
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.grammar import Consumer, Traits
from hvfuzz.guest.generate.values import choose
from hvfuzz.guest.program.ops import REGISTERS, OpKind
from hvfuzz.guest.program.program import Actor, Op, Ref, Value
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT, PAGE_SIZE

_CAREFUL: Final = 0.68
"""How many ops are meant to be accepted: state gets deep by these, and limits are met by the others."""
NEEDED: Final = 0.95
"""The same for ops that others need."""
_DEPTH: Final = 3
"""How far back the needs of the needs are met."""


def compose(
    context: Context,
    kind: OpKind,
    actor: Actor | None = None,
    *,
    sources: tuple[int, ...] = (),
    naming: int | None = None,
    careful: float = _CAREFUL,
) -> Op:
    """An op of this kind after `context.ops`, by `actor` if one is given.

    Who produced a resource, who may use it and which domains are named mostly agree: a grant of dom1 to dom2 is
    mapped by dom2, which names dom1. `sources` are producers that were made for this op; `naming` is the domain
    that it is for, if it names one; `careful` is how likely it is that no value is an edge or noise. Else that is
    often a single one.
    """
    traits = context.grammar.traits[kind]
    care = context.chance(careful)
    context.careful = care
    # What is not checked shows best where all else is right.
    wild = context.below(len(kind.fields)) if not care and kind.fields and context.chance(0.4) else None
    taken: dict[int, Value] = {}
    for consumer in traits.consumers:
        if not context.chance(0.5 if traits.ref_flags else 0.92):
            continue
        # One made for another field of this op serves twice only by chance.
        made = tuple(each for each in sources if Ref(each) not in taken.values())
        source = _source(context, kind, consumer, actor, made)
        if source is None:
            continue
        taken[consumer.position] = Ref(source)
        producer = context.ops[source]
        if consumer.owner is not None and context.chance(0.95):
            taken[consumer.owner] = producer.actor.domain
        if actor is None and context.chance(0.92):
            domain = producer.actor.domain if consumer.owner is None else _named(context, producer)
            actor = context.actor(domain)
    if actor is None:
        actor = _likely_actor(context, traits)
    if traits.sweeps is not None and taken and context.chance(0.3):
        taken.update(_sweep(context, traits.sweeps, actor))
    if naming is not None and traits.domains and traits.domains[0] not in taken:
        taken[traits.domains[0]] = naming
    context.fills = traits.fills
    values: list[Value] = []
    for at, field in enumerate(kind.fields):
        context.wild = at == wild
        context.careful = care or (wild is not None and at != wild)
        values.append(taken[at] if at in taken else choose(context, field.kind, actor))
    _agree(context, traits, values)
    context.careful = context.wild = context.fills = False
    return Op(kind, actor, tuple(values))


def _source(
    context: Context, kind: OpKind, consumer: Consumer, actor: Actor | None, sources: tuple[int, ...]
) -> int | None:
    """An op that produces what the consumer takes, and which `actor` may use if there is one."""
    resource = consumer.resource
    for source in reversed(sources):
        if context.ops[source].kind.produces == resource:
            return source
    known = context.producers(resource)
    if not known:
        return None
    if actor is not None and context.chance(0.9):
        known = [each for each in known if _usable(context, context.ops[each], consumer, actor)] or known
    if context.chance(0.85):
        known = _fitting(context, consumer, known) or known
        taken = {op.values[consumer.position] for op in context.ops if op.kind is kind}
        known = [each for each in known if Ref(each) not in taken] or known
    return context.recent(known)


def _fitting(context: Context, consumer: Consumer, sources: list[int]) -> list[int]:
    """The sources of the step that the consumer wants."""
    made_in, last = context.grammar.made_in, consumer.owner is None
    return [each for each in sources if made_in(context.ops[each].kind, consumer.resource, last)]


def _sweep(context: Context, sweeps: tuple[Consumer, int], actor: Actor) -> dict[int, Value]:
    """The first result that the actor's domain has of a resource, and the number of all: a call about each."""
    consumer, count = sweeps
    known = _fitting(context, consumer, context.producers(consumer.resource))
    known = [each for each in known if context.ops[each].actor.domain == actor.domain]
    return {consumer.position: Ref(known[0]), count: len(known)} if known else {}


def _usable(context: Context, producer: Op, consumer: Consumer, actor: Actor) -> bool:
    if consumer.owner is None:
        return producer.actor.domain == actor.domain
    return _named(context, producer) == actor.domain


def _named(context: Context, op: Op) -> int | None:
    """The domain that an op names first: whom it lets use its result."""
    domains = context.grammar.traits[op.kind].domains
    if not domains:
        return None
    value = op.values[domains[0]]
    return op.actor.domain if value == SELF else value if isinstance(value, int) else None


def _likely_actor(context: Context, traits: Traits) -> Actor:
    if traits.privileged and context.chance(0.85):
        return context.actor(context.control())
    if "device" in traits.spots and not traits.privileged and context.chance(0.9):
        owners = [number for number, domain in enumerate(context.domains) if domain.devices]
        if owners:
            return context.actor(context.pick(owners))
    return context.actor()


def _agree(context: Context, traits: Traits, values: list[Value]) -> None:
    """Make lengths, alignments and flags agree with what they are about, mostly."""
    for flags, bit, position in traits.ref_flags:
        current = values[flags]
        if isinstance(current, int) and context.chance(0.9):
            values[flags] = current | bit if isinstance(values[position], Ref) else current & ~bit
    if traits.readonly is not None:
        _agree_rights(context, traits, values)
    if traits.arrays and traits.count is not None and context.chance(0.75):
        elements = values[traits.arrays[0]]
        if isinstance(elements, tuple):
            values[traits.count] = len(elements)
    for at in traits.parts:
        total = values[traits.count] if traits.count is not None else 0
        if isinstance(total, int) and context.chance(0.8):
            values[at] = context.below(min(total, 64) + 1) if context.chance(0.4) else 0
    if traits.kind.follow is not None and traits.count is not None:
        values[traits.count] = 1 + context.below(4)
    if traits.order is not None and values[traits.order] == LARGE_ORDER and context.chance(0.85):
        for at in traits.gfns:
            gfn = values[at]
            if isinstance(gfn, int):
                values[at] = max(gfn // LARGE_FRAMES, 1) % 4 * LARGE_FRAMES
        if traits.count is not None:
            values[traits.count] = 1
    if traits.kind.name == "mmio_write" and context.chance(0.8):
        _agree_register(context, traits, values)


def _agree_rights(context: Context, traits: Traits, values: list[Value]) -> None:
    """Ask for no more than the grant that is named gives, mostly."""
    flags, bit = traits.readonly or (0, 0)
    current = values[flags]
    for consumer in traits.consumers:
        source = values[consumer.position]
        if isinstance(source, Ref) and isinstance(current, int):
            producer = context.ops[source.op]
            rights = [producer.values[at] for at in context.grammar.traits[producer.kind].spots.get("rights", ())]
            if any(isinstance(each, int) and not each & 2 for each in rights) and context.chance(0.9):
                values[flags] = current | bit


def _agree_register(context: Context, traits: Traits, values: list[Value]) -> None:
    _, register, size, value = range(4)
    name = next((name for name, number in REGISTERS.items() if number == values[register]), "")
    values[size] = 8
    if name in ("SRC", "DST", "QUEUE_DESC", "QUEUE_DRIVER", "QUEUE_DEVICE", "LOG_BASE"):
        pool = context.pool("iova")
        values[value] = context.pick(pool) if pool else context.below(6) << PAGE_SHIFT
    elif name == "LENGTH":
        values[value] = context.pick((8, 64, PAGE_SIZE, 2 * PAGE_SIZE))
    elif name in ("CONTROL", "QUEUE_ENABLE", "ACK"):
        values[value] = 1
    elif name in ("NOTIFY", "QUEUE_SELECT"):
        values[value] = context.below(3)
    elif name == "DEVICE_STATUS":
        values[value] = context.pick((0, 3, 0xB, 0xF))


def extend(
    context: Context,
    kind: OpKind,
    actor: Actor | None = None,
    *,
    naming: int | None = None,
    depth: int = 0,
    careful: float = _CAREFUL,
    sources: tuple[int, ...] = (),
) -> Op:
    """Append an op of this kind to `context.ops`, after producers of what it takes where these are missing.

    `sources` and `careful` are those of `compose`.
    """
    traits = context.grammar.traits[kind]
    if depth < _DEPTH:
        for consumer in traits.consumers:
            known = _fitting(context, consumer, context.producers(consumer.resource))
            if actor is not None:
                known = [each for each in known if _usable(context, context.ops[each], consumer, actor)]
            if known and not context.chance(0.12):
                continue
            producer = context.grammar.producer(consumer.resource, consumer.owner is None, context.rng)
            if producer is None:
                continue
            if actor is None:
                actor = context.actor()
            if consumer.owner is None:
                owner, user = actor.domain, None
            else:
                owner, user = _other(context, actor.domain), actor.domain
            extend(context, producer, context.actor(owner), naming=user, depth=depth + 1)
            sources = (*sources, len(context.ops) - 1)
        for at in traits.arrays:
            element = kind.fields[at].kind.element
            resource = element.consumes if element is not None else None
            if resource is not None and not context.producers(resource) and context.chance(0.8):
                producer = context.grammar.producer(resource, True, context.rng)
                if producer is not None:
                    actor = actor or context.actor()
                    extend(context, producer, context.actor(actor.domain), depth=depth + 1)
        if traits.reaches and context.grammar.mappers and context.device_focus is None and context.chance(0.75):
            return _reach(context, kind, actor or _likely_actor(context, traits), depth)
    if depth:
        careful = NEEDED
    op = compose(context, kind, actor, sources=sources, naming=naming, careful=careful)
    context.append(op)
    return op


def map_for_device(context: Context, actor: Actor, depth: int = 0) -> Op:
    """Append, and return, what maps a device address, mostly so that a device can read and write there."""
    mappers = context.grammar.mappers
    if context.chance(0.75):
        mappers = tuple(each for each in mappers if not each.consumes) or mappers
    mapper = extend(context, context.pick(mappers), actor, depth=depth + 1)
    values = list(mapper.values)
    for at, field in enumerate(mapper.kind.fields):
        value = values[at]
        if isinstance(value, int) and field.kind.flags and context.chance(0.8):
            values[at] = value | field.kind.names.get("DEVICE", 0) if "DEVICE" in field.kind.names else 3
    context.ops[-1] = mapper = mapper._replace(values=tuple(values))
    return mapper


def _reach(context: Context, kind: OpKind, actor: Actor, depth: int) -> Op:
    """Append what maps a device address, then an op of this kind by the same domain that uses it."""
    mapper = map_for_device(context, actor, depth)
    iova = mapper.values[context.grammar.traits[mapper.kind].spots["iova"][0]]
    op = compose(context, kind, actor)
    if isinstance(iova, int):
        op = op._replace(values=tuple(_aimed(context, op, iova)))
    context.append(op)
    return op


def _aimed(context: Context, op: Op, iova: int) -> Iterator[Value]:
    """The values of `op`, with this device address for most of its own."""
    for field, value in zip(op.kind.fields, op.values, strict=True):
        if isinstance(value, tuple) and not isinstance(value, Ref):
            yield tuple(
                iova if field.kind.element_at(at).name == "iova" and context.chance(0.85) else each
                for at, each in enumerate(value)
            )
        else:
            yield iova if field.kind.name == "iova" and context.chance(0.85) else value


def _other(context: Context, domain: int) -> int:
    """Another domain than this one."""
    return (domain + 1 + context.below(max(len(context.domains) - 1, 1))) % len(context.domains)
