"""Appends an op after its prerequisites: producers of the resources that it takes, mappings of device addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import CAREFUL, CAREFUL_PREREQUISITE, compose, likely_actor
from hvfuzz.guest.generate.producer_choice import producers_of_step, usable_by
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import Actor, Op, Ref, Value

_DEPTH: Final = 3
"""Depth to which prerequisites get prerequisites."""


def append_with_prerequisites(
    context: Context,
    kind: OpKind,
    actor: Actor | None = None,
    *,
    naming: int | None = None,
    depth: int = 0,
    careful: float = CAREFUL,
    sources: tuple[int, ...] = (),
) -> Op:
    """Append, and return, an op of this kind, after producers of the resources that the program lacks.

    `naming`, `sources` and `careful` are those of `compose`; `depth` counts recursive calls.
    """
    traits = context.grammar.traits[kind]
    if depth < _DEPTH:
        for consumer in traits.consumers:
            known = producers_of_step(context, consumer, context.producers(consumer.resource))
            if actor is not None:
                known = [each for each in known if usable_by(context, context.ops[each], consumer, actor)]
            if known and not context.chance(0.12):
                continue
            producer = context.grammar.choose_producer(consumer.resource, consumer.owner is None, context.rng)
            if producer is None:
                continue
            if actor is None:
                actor = context.actor()
            if consumer.owner is None:
                owner, user = actor.domain, None
            else:
                owner, user = _other_domain(context, actor.domain), actor.domain
            append_with_prerequisites(context, producer, context.actor(owner), naming=user, depth=depth + 1)
            sources = (*sources, len(context.ops) - 1)
        for at in traits.arrays:
            element = kind.fields[at].kind.element
            resource = element.consumes if element is not None else None
            if resource is not None and not context.producers(resource) and context.chance(0.8):
                producer = context.grammar.choose_producer(resource, True, context.rng)
                if producer is not None:
                    actor = actor or context.actor()
                    append_with_prerequisites(context, producer, context.actor(actor.domain), depth=depth + 1)
        if (
            traits.needs_mapping
            and context.grammar.mapping_kinds
            and context.iova_focus is None
            and context.chance(0.75)
        ):
            return _append_with_mapping(context, kind, actor or likely_actor(context, traits), depth)
    if depth:
        careful = CAREFUL_PREREQUISITE
    op = compose(context, kind, actor, sources=sources, naming=naming, careful=careful)
    context.append(op)
    return op


def append_dma_mapping(context: Context, actor: Actor, depth: int = 0) -> Op:
    """Append, and return, an op that maps a device address, mostly readable and writable for the device."""
    mappers = context.grammar.mapping_kinds
    if context.chance(0.75):
        mappers = tuple(each for each in mappers if not each.consumes) or mappers
    mapper = append_with_prerequisites(context, context.pick(mappers), actor, depth=depth + 1)
    values = list(mapper.values)
    for at, field in enumerate(mapper.kind.fields):
        value = values[at]
        if isinstance(value, int) and field.kind.flags and context.chance(0.8):
            values[at] = value | field.kind.names.get("DEVICE", 0) if "DEVICE" in field.kind.names else 3
    context.ops[-1] = mapper = mapper._replace(values=tuple(values))
    return mapper


def _append_with_mapping(context: Context, kind: OpKind, actor: Actor, depth: int) -> Op:
    """Append an op that maps a device address, then an op of this kind that uses the address."""
    mapper = append_dma_mapping(context, actor, depth)
    iova = mapper.values[context.grammar.traits[mapper.kind].positions["iova"][0]]
    op = compose(context, kind, actor)
    if isinstance(iova, int):
        op = op._replace(values=tuple(_with_iova(context, op, iova)))
    context.append(op)
    return op


def _with_iova(context: Context, op: Op, iova: int) -> Iterator[Value]:
    """The values of `op`, most device addresses replaced by `iova`."""
    for field, value in zip(op.kind.fields, op.values, strict=True):
        if isinstance(value, tuple) and not isinstance(value, Ref):
            yield tuple(
                iova if field.kind.element_at(at).name == "iova" and context.chance(0.85) else each
                for at, each in enumerate(value)
            )
        else:
            yield iova if field.kind.name == "iova" and context.chance(0.85) else value


def _other_domain(context: Context, domain: int) -> int:
    """A domain other than `domain`, if the world has several."""
    return (domain + 1 + context.below(max(len(context.domains) - 1, 1))) % len(context.domains)
