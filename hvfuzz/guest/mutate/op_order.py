"""Reorders, removes and repeats ops, and updates the references among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.program.argument_kinds import ANY_RESOURCE
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import MAX_OPS, Actor, Op, Ref, Value


def arrange(ops: Sequence[Op], order: Iterable[int]) -> list[Op]:
    """The ops at these indices of `ops`, in this order, at most MAX_OPS; an index may occur several times.

    A reference refers to the latest copy of its op before it. If there is none, it refers to the last op that
    produces the resource, or becomes 0.
    """
    arranged: list[Op] = []
    places: dict[int, int] = {}
    moved = False
    for index in order:
        here = len(arranged)
        if here == MAX_OPS:
            break
        op = ops[index]
        if moved or index != here:
            moved = True
            if op.kind.consumes:
                op = op._replace(values=_moved(op.kind, op.values, places, arranged))
            race = op.race
            if race is not None and race.op.kind.consumes:
                other = race.op._replace(values=_moved(race.op.kind, race.op.values, places, arranged))
                op = op._replace(race=race._replace(op=other))
        arranged.append(op)
        places[index] = here
    return arranged


def shift_references(ops: Iterable[Op], start: int, by: int) -> list[Op]:
    """The ops, with `by` added to each reference to op `start` or a later one."""
    shifted = []
    for op in ops:
        if op.kind.consumes:
            op = op._replace(values=_shifted(op.values, start, by))
        race = op.race
        if race is not None and race.op.kind.consumes:
            other = race.op._replace(values=_shifted(race.op.values, start, by))
            op = op._replace(race=race._replace(op=other))
        shifted.append(op)
    return shifted


def nearest_actor(actor: Actor, world: int) -> Actor:
    """`actor`, or, if the world lacks it, the actor with the closest domain and vCPU numbers."""
    domains = WORLDS[world].domains
    domain = min(actor.domain, len(domains) - 1)
    return Actor(domain, min(actor.vcpu, domains[domain].vcpus - 1))


def with_nearest_actors(ops: Iterable[Op], world: int) -> list[Op]:
    """The ops, each performed by its nearest actor in this world."""
    fitting = []
    for op in ops:
        race = op.race
        if race is not None:
            race = race._replace(op=race.op._replace(actor=nearest_actor(race.op.actor, world)))
        fitting.append(op._replace(actor=nearest_actor(op.actor, world), race=race))
    return fitting


def _moved(kind: OpKind, values: tuple[Value, ...], places: dict[int, int], before: Sequence[Op]) -> tuple[Value, ...]:
    moved: list[Value] = []
    for field, value in zip(kind.fields, values, strict=True):
        if isinstance(value, Ref):
            value = _target(value, field.kind.consumes, places, before)
        elif isinstance(value, tuple):
            value = tuple(
                _target(each, field.kind.element_at(at).consumes, places, before) if isinstance(each, Ref) else each
                for at, each in enumerate(value)
            )
        moved.append(value)
    return tuple(moved)


def _target(ref: Ref, resource: str | None, places: dict[int, int], before: Sequence[Op]) -> int | Ref:
    place = places.get(ref.op)
    if place is not None:
        return Ref(place)
    for index in range(len(before) - 1, -1, -1):
        produced = before[index].kind.produces
        if produced is not None and resource in (produced, ANY_RESOURCE):
            return Ref(index)
    return 0


def _shifted(values: tuple[Value, ...], start: int, by: int) -> tuple[Value, ...]:
    shifted: list[Value] = []
    for value in values:
        if isinstance(value, Ref):
            value = Ref(value.op + by) if value.op >= start else value
        elif isinstance(value, tuple):
            value = tuple(Ref(each.op + by) if isinstance(each, Ref) and each.op >= start else each for each in value)
        shifted.append(value)
    return tuple(shifted)
