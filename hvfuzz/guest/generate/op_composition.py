"""Composes one op: its actor, the results that it takes, and arguments that fit together."""

from __future__ import annotations

from typing import Final

from hvfuzz.guest.generate.argument_agreement import make_arguments_agree
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.producer_choice import find_producer, named_domain, range_of_results
from hvfuzz.guest.generate.values import choose_value
from hvfuzz.guest.grammar.op_traits import Traits
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import Actor, Op, Ref, Value

# Probabilities that an op gets only arguments that the hypervisor is likely to accept.
CAREFUL: Final = 0.68
CAREFUL_PREREQUISITE: Final = 0.95
"""For ops on which later ops depend."""
CAREFUL_LAST: Final = 0.7
"""For the last op of a template."""


def compose(
    context: Context,
    kind: OpKind,
    actor: Actor | None = None,
    *,
    sources: tuple[int, ...] = (),
    naming: int | None = None,
    careful: float = CAREFUL,
) -> Op:
    """An op of this kind to append to `context.ops`, by `actor` if given.

    The owner of a resource, its user and the named domains mostly agree: a grant of dom1 to dom2 is mapped by dom2,
    which names dom1. `sources` are ops that were appended to produce this op's resources, by index. `naming` is the
    domain to name. `careful` is the probability that all arguments are likely to be accepted; otherwise often one
    argument alone is an edge or random.
    """
    traits = context.grammar.traits[kind]
    care = context.chance(careful)
    context.careful = care
    # A missing check of one argument shows only if all others pass.
    wild = context.below(len(kind.fields)) if not care and kind.fields and context.chance(0.4) else None
    taken: dict[int, Value] = {}
    for consumer in traits.consumers:
        if not context.chance(0.5 if traits.ref_flags else 0.92):
            continue
        # Each of `sources` was made for one field.
        made = tuple(each for each in sources if Ref(each) not in taken.values())
        source = find_producer(context, kind, consumer, actor, made)
        if source is None:
            continue
        taken[consumer.position] = Ref(source)
        producer = context.ops[source]
        if consumer.owner is not None and context.chance(0.95):
            taken[consumer.owner] = producer.actor.domain
        if actor is None and context.chance(0.92):
            domain = producer.actor.domain if consumer.owner is None else named_domain(context, producer)
            actor = context.actor(domain)
    if actor is None:
        actor = likely_actor(context, traits)
    if traits.range_fields is not None and taken and context.chance(0.3):
        taken.update(range_of_results(context, traits.range_fields, actor))
    if naming is not None and traits.domains and traits.domains[0] not in taken:
        taken[traits.domains[0]] = naming
    context.free_frames = traits.populates
    values: list[Value] = []
    for at, field in enumerate(kind.fields):
        context.wild = at == wild
        context.careful = care or (wild is not None and at != wild)
        values.append(taken[at] if at in taken else choose_value(context, field.kind, actor))
    make_arguments_agree(context, traits, values)
    context.careful = context.wild = context.free_frames = False
    return Op(kind, actor, tuple(values))


def with_fields(kind: OpKind, actor: Actor, /, **fields: Value) -> Op:
    """An op with these fields, by name; `from_` names the field `from`.

    A field that is not named is 0 or empty. A name that the kind lacks has no effect: ABIs differ in fields.
    """
    given = {name.rstrip("_"): value for name, value in fields.items()}
    return Op(
        kind, actor, tuple(given.get(each.name, () if each.kind.element is not None else 0) for each in kind.fields)
    )


def likely_actor(context: Context, traits: Traits) -> Actor:
    """A vCPU whose domain may make the call: mostly the control domain, or an owner of a device."""
    if traits.privileged and context.chance(0.85):
        return context.actor(context.control_domain())
    if "device" in traits.positions and not traits.privileged and context.chance(0.9):
        owners = [number for number, domain in enumerate(context.domains) if domain.devices]
        if owners:
            return context.actor(context.pick(owners))
    return context.actor()
