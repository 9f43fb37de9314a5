"""Chooses the earlier ops whose results an op takes.

Ops are given by index in `context.ops`.
"""

from __future__ import annotations

from hvfuzz.abi.limits import SELF
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.grammar.op_traits import Consumer
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import Actor, Op, Ref, Value


def find_producer(
    context: Context, kind: OpKind, consumer: Consumer, actor: Actor | None, sources: tuple[int, ...]
) -> int | None:
    """An op that produces the consumer's resource, mostly one that `actor` may use and that no `kind` op took before.

    The latest of `sources` that produces it, if any; None if no op produces it.
    """
    resource = consumer.resource
    for source in reversed(sources):
        if context.ops[source].kind.produces == resource:
            return source
    known = context.producers(resource)
    if not known:
        return None
    if actor is not None and context.chance(0.9):
        known = [each for each in known if usable_by(context, context.ops[each], consumer, actor)] or known
    if context.chance(0.85):
        known = producers_of_step(context, consumer, known) or known
        taken = {op.values[consumer.position] for op in context.ops if op.kind is kind}
        known = [each for each in known if Ref(each) not in taken] or known
    return context.pick_recent(known)


def producers_of_step(context: Context, consumer: Consumer, sources: list[int]) -> list[int]:
    """Those of `sources` that make the resource in the step which the consumer takes (see Grammar.made_in_step)."""
    made_in, last = context.grammar.made_in_step, consumer.owner is None
    return [each for each in sources if made_in(context.ops[each].kind, consumer.resource, last)]


def range_of_results(context: Context, range_fields: tuple[Consumer, int], actor: Actor) -> dict[int, Value]:
    """By field: the first result of the resource in the actor's domain and the number of results; empty if none."""
    consumer, count = range_fields
    known = producers_of_step(context, consumer, context.producers(consumer.resource))
    known = [each for each in known if context.ops[each].actor.domain == actor.domain]
    return {consumer.position: Ref(known[0]), count: len(known)} if known else {}


def usable_by(context: Context, producer: Op, consumer: Consumer, actor: Actor) -> bool:
    """Whether `actor` may use the result of `producer`: it is its domain's own, or was made for its domain."""
    if consumer.owner is None:
        return producer.actor.domain == actor.domain
    return named_domain(context, producer) == actor.domain


def named_domain(context: Context, op: Op) -> int | None:
    """The first domain that an op names, which is the one that may use its result; None if it names none."""
    domains = context.grammar.traits[op.kind].domains
    if not domains:
        return None
    value = op.values[domains[0]]
    return op.actor.domain if value == SELF else value if isinstance(value, int) else None
