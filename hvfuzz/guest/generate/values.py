"""Chooses arguments by kind: values that the program used before, values likely to be accepted, edges, random numbers.

VALUE_GENERATORS is the table of generators: an entry there adds one for a kind of argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from hvfuzz.abi.boot import DEVICES
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.limits import LARGE_ORDER, SELF
from hvfuzz.guest.generate.address_choice import edge, entry, frame, gva, iova
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.grammar.op_traits import pool_of
from hvfuzz.guest.program.argument_kinds import ANY_RESOURCE, SIZES
from hvfuzz.guest.program.program import MAX_ELEMENTS, Actor, Ref, Value
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE


def choose_value(context: Context, kind: Kind, actor: Actor) -> Value:
    """A value for a field of this kind, in an op that `actor` performs after `context.ops`."""
    if kind.follow:
        return 0 if context.draw(0.95) < 0.95 else gva(context, actor)
    if kind.element is not None:
        return array(context, kind, actor) if context.draw(0.94) < 0.94 or context.chance(0.3) else gva(context, actor)
    return scalar(context, kind, actor)


def scalar(context: Context, kind: Kind, actor: Actor) -> int | Ref:
    """A number, or a reference to the result of an earlier op if this kind takes one."""
    consumes = kind.consumes
    if consumes is not None and context.ops:
        if consumes == ANY_RESOURCE:
            likely = 0.12
        else:
            likely = 0.5 if kind.name == "frame_or_ref" else 0.9
        if context.chance(likely):
            sources = context.producers(consumes)
            if sources:
                return Ref(context.pick_recent(sources))
    return number(context, kind, actor)


def number(context: Context, kind: Kind, actor: Actor) -> int:
    """A number for a field of this kind."""
    special = VALUE_GENERATORS.get(kind.name)
    if special is not None:
        return special(context, kind, actor) & kind.maximum
    if kind.flags:
        return _flags(context, kind, actor)
    if kind.names:
        # A field without flags selects one of its names.
        return context.pick(tuple(kind.names.values())) if context.draw(0.75) < 0.75 else edge(context, kind)
    choice = context.draw(0.5)
    if choice < 0.15:
        pool = context.pool(pool_of(kind))
        if pool:
            return context.pick(pool) & kind.maximum
    return context.below(4) if choice < 0.5 else edge(context, kind)


def array(context: Context, kind: Kind, actor: Actor) -> tuple[int | Ref, ...]:
    """The elements of an array, mostly few. A count at its head mostly equals the number of its records."""
    most = min(kind.limit or MAX_ELEMENTS, MAX_ELEMENTS)
    choice = context.draw(0.97)
    if choice < 0.65:
        length = 1 + context.below(min(4, most))
    elif choice < 0.97:
        length = 1 + context.below(most)
    else:
        length = 0
    head, record = len(kind.head), len(kind.record)
    if record and length and context.chance(0.9):
        records = 1 + (length - 1) // record
        length = head + record * min(records, (most - head) // record)
    values = [scalar(context, kind.element_at(place), actor) for place in range(length)]
    if not record and context.careful and context.chance(0.8):
        values = list(dict.fromkeys(values))
    if record and head and length and kind.head[0].name == "count" and context.chance(0.85):
        values[0] = (length - head) // record
    return tuple(values)


def _flags(context: Context, kind: Kind, actor: Actor) -> int:
    choice = context.draw(0.88)
    if choice > 0.88:
        return edge(context, kind)
    bits = tuple(kind.names.values())
    # The first flags select the operation, the later ones modify it. A lone flag is set about every other time.
    some = len(bits) > 1 or choice < 0.45
    value = bits[min(context.below(len(bits)), context.below(len(bits)))] if some and choice < 0.82 else 0
    for bit in bits[1:]:
        if context.chance(0.25):
            value |= bit
    return value


def _rights(context: Context, kind: Kind, actor: Actor) -> int:
    if context.draw(0.9) > 0.9:
        return edge(context, kind)
    accepted = _accepted(kind)
    return accepted[-1] if context.chance(0.3) else context.pick(accepted)


@lru_cache(64)
def _accepted(kind: Kind) -> tuple[int, ...]:
    """The rights that a call accepts: the ascending run at the start of the kind's edges."""
    descent = next((at for at in range(1, len(kind.edges)) if kind.edges[at] < kind.edges[at - 1]), len(kind.edges))
    return kind.edges[:descent]


def _domain(context: Context, kind: Kind, actor: Actor) -> int:
    choice = context.draw(0.88)
    if choice < 0.88:
        other = context.below(len(context.domains))
        if other == actor.domain and choice < 0.8:
            other = (other + 1 + context.below(len(context.domains) - 1)) % len(context.domains)
        return other
    return SELF if choice < 0.91 else edge(context, kind)


def _device(context: Context, kind: Kind, actor: Actor) -> int:
    choice = context.draw(0.93)
    if choice < 0.8:
        assigned = context.domains[actor.domain].devices
        if assigned:
            return context.pick(assigned)
    return context.below(DEVICES) if choice < 0.93 else edge(context, kind)


def _vcpu(context: Context, kind: Kind, actor: Actor) -> int:
    return context.below(context.domains[actor.domain].vcpus) if context.draw(0.9) < 0.9 else edge(context, kind)


def _count(context: Context, kind: Kind, actor: Actor) -> int:
    if context.frame_focus is not None and context.chance(0.2):
        return context.frame_focus[1]
    choice = context.draw(0.82)
    if choice < 0.62:
        return 1
    return 1 + context.below(8) if choice < 0.82 else edge(context, kind)


def _index(context: Context, kind: Kind, actor: Actor) -> int:
    choice = context.draw(0.5)
    if choice > 0.5:
        # The larger of two edges: indices that wrap around are large.
        return max(edge(context, kind), edge(context, kind))
    return 0 if choice < 0.35 else context.below(4)


def _length(context: Context, kind: Kind, actor: Actor) -> int:
    choice = context.draw(0.75)
    if choice > 0.75:
        return edge(context, kind)
    return context.pick((8, 8, 8, 64, 64, 256, PAGE_SIZE, 2 * PAGE_SIZE))


def _zero_mostly(context: Context, kind: Kind, actor: Actor) -> int:
    return 0 if context.draw(0.6) < 0.6 else edge(context, kind)


def _order(context: Context, kind: Kind, actor: Actor) -> int:
    choice = context.draw(0.93)
    if choice < 0.7 and not context.large_blocks:
        return 0
    return LARGE_ORDER if choice < 0.93 else edge(context, kind)


def _size(context: Context, kind: Kind, actor: Actor) -> int:
    return 8 if context.chance(0.6) else context.pick(SIZES)


def _listed(context: Context, kind: Kind, actor: Actor) -> int:
    return context.pick(kind.edges)


def _control_value(context: Context, kind: Kind, actor: Actor) -> int:
    return frame(context, actor) << PAGE_SHIFT if context.chance(0.2) else edge(context, kind)


def _word(context: Context, kind: Kind, actor: Actor) -> int:
    choice = context.rng.random()
    if choice < 0.25:
        return context.below(10)
    if choice < 0.35:
        return iova(context)
    if choice < 0.45:
        return frame(context, actor)
    if choice < 0.52:
        return gva(context, actor)
    if choice < 0.6:
        return entry(context, actor)
    if choice < 0.7:
        # A struct's header: size, version, reserved.
        return 8 * (1 + context.below(8)) | (1 + context.below(2)) << 16
    return edge(context, kind)


VALUE_GENERATORS: Final[Mapping[str, Callable[[Context, Kind, Actor], int]]] = MappingProxyType(
    {
        "gva": lambda context, kind, actor: gva(context, actor),
        "gfn": lambda context, kind, actor: frame(context, actor),
        "frame_or_ref": lambda context, kind, actor: frame(context, actor),
        "iova": lambda context, kind, actor: iova(context),
        "entry": lambda context, kind, actor: entry(context, actor),
        "rights": _rights,
        "domain": _domain,
        "device": _device,
        "vcpu": _vcpu,
        "count": _count,
        "index": _index,
        "length": _length,
        "offset": _zero_mostly,
        "timeout": _zero_mostly,
        "order": _order,
        "size": _size,
        "level": _listed,
        "capacity": _listed,
        "control_value": _control_value,
        "word": _word,
    }
)
"""By name of the kind. For any other kind, `number` goes by its symbols and edges."""
