"""The law of what is undone: calls that are undone at once change nothing that comes later.

A nest is one or more calls that begin something, each undone by its inverse, the last first. The arguments of an
inverse follow from the declarations: the resource that the call produced, and each field of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.program.ops import Catalogue, OpKind
from hvfuzz.guest.program.program import Actor, Op, Program, Ref, Value, batched, default
from hvfuzz.guest.program.relinking import relink
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.targets.laws.exemptions import Exemption
from hvfuzz.targets.laws.variant import IDLE, Inserted, Law, Variant, idle_op, plain

INVERSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "memory.populate": "memory.decrease",
        "grant.create": "grant.revoke",
        "grant.map": "grant.unmap",
        "event.alloc": "event.close",
        "event.bind": "event.close",
        "device.assign": "device.deassign",
        "device.dma_map": "device.dma_unmap",
    }
)
"""What undoes each call that can be undone."""
PLACES: Final = 12
"""Most places of a program at which a nest is inserted, evenly spread."""
ACTOR, OTHER, CONTROL = "actor", "other", "control"


class Begin(NamedTuple):
    """A call of a nest: which domain makes it, and its arguments; one that names a domain is ACTOR or OTHER."""

    call: str
    by: str
    arguments: Mapping[str, Any]


class Result(NamedTuple):
    """An argument: the result of call number `of` of the nest."""

    of: int


def _begin(call: str, by: str = ACTOR, **arguments: Any) -> Begin:
    return Begin(call, by, MappingProxyType(arguments))


_GRANT: Final = _begin("grant.create", gfn=0x35, to=OTHER, rights=3)
_READ_GRANT: Final = _begin("grant.create", gfn=0x36, to=OTHER, rights=1)
_PORT: Final = _begin("event.alloc", remote=OTHER)


def _map(**arguments: Any) -> Begin:
    return _begin("grant.map", OTHER, granter=ACTOR, ref=Result(0), **arguments)


NESTS: Final[tuple[tuple[Begin, ...], ...]] = (
    (_begin("memory.populate", first=0x5FF, count=1),),
    (_begin("memory.populate", first=0x1E0, count=64),),
    (_begin("memory.populate", first=0x600, count=1, order=9),),
    (_begin("memory.populate", first=0x7F0, count=3, flags=1),),
    (_begin("device.dma_map", iova=0x3FFFF000, gfn=0x20, count=2, rights=3),),
    (_begin("device.dma_map", iova=0x7FFFFFF000, gfn=0x35, count=1, rights=1),),
    (_begin("device.dma_map", iova=0x11000, gfn=0x21, count=3, rights=3),),
    (_GRANT,),
    (_GRANT, _map(gfn=0x5FE, flags=1)),
    (_READ_GRANT, _map(iova=0x12000, flags=6)),
    (_GRANT, _map(gfn=0x701, iova=0x40000000, flags=3)),
    (_GRANT, _map(gfn=0x400, flags=1), _map(gfn=0x401, iova=0x13000, flags=3)),
    (_PORT,),
    (_PORT, _begin("event.bind", OTHER, remote=ACTOR, port=Result(0))),
    (_begin("device.assign", CONTROL, device=1, to=ACTOR),),
    (_begin("device.assign", CONTROL, device=2, to=OTHER),),
    (_begin("device.assign", CONTROL, device=3, to=ACTOR),),
    (
        _begin("memory.populate", first=0x500, count=2),
        _begin("device.dma_map", iova=0x20000, gfn=0x500, count=2, rights=3),
        _begin("grant.create", gfn=0x501, to=OTHER, rights=3),
    ),
)


def inverse(call: Op, at: int, catalogue: Catalogue) -> Op:
    """The op that undoes `call`, which is op number `at`."""
    kind = catalogue.by_name[INVERSES[call.kind.name]]
    return Op(kind, call.actor, tuple(_of_inverse(call, at, kind, place) for place in range(len(kind.fields))))


def _of_inverse(call: Op, at: int, kind: OpKind, place: int) -> Value:
    field = kind.fields[place]
    if field.kind.consumes is not None and field.kind.consumes == call.kind.produces:
        return Ref(at)
    if field.kind.flags:
        return sum(field.kind.names.values())  # everything that the call has made
    value = call.values[call.kind.index[field.name]] if field.name in call.kind.index else default(field)
    if field.name != "count":
        return value
    order = call.values[call.kind.index["order"]] if "order" in call.kind.index else 0
    assert isinstance(value, int)
    assert isinstance(order, int)
    return max(value, 1) << order  # in pages, and one of what the call made only one of


def _nest_at(nest: tuple[Begin, ...], at: int, actor: Actor, catalogue: Catalogue) -> Iterator[tuple[Op, Inserted]]:
    """The ops of a nest whose first has the number `at`, for the domain of `actor`."""
    domains = {ACTOR: actor, OTHER: Actor(2 if actor.domain == 1 else 1, 0), CONTROL: Actor(0, 0)}
    calls = []
    for place, begin in enumerate(nest):
        kind = catalogue.by_name[begin.call]
        values = []
        for field in kind.fields:
            value = begin.arguments.get(field.name, default(field))
            if isinstance(value, Result):
                value = Ref(at + value.of)
            values.append(domains[value].domain if isinstance(value, str) else value)
        op = Op(kind, domains[begin.by], tuple(values))
        calls.append(op)
        yield op, Inserted(needs=at + place - 1 if place else None, absent=_device_pages(op))
    for place, op in reversed(tuple(enumerate(calls))):
        yield inverse(op, at + place, catalogue), Inserted(needs=at + place, undoes=True)


def _device_pages(op: Op) -> tuple[int, int] | None:
    """(first, number) of the device pages that the call would replace, which no call gives back."""
    if op.kind.name != "device.dma_map":
        return None
    iova, count = op.values[op.kind.index["iova"]], op.values[op.kind.index["count"]]
    assert isinstance(iova, int)
    assert isinstance(count, int)
    return iova >> PAGE_SHIFT, count


def with_nests(program: Program, nest: tuple[Begin, ...], catalogue: Catalogue) -> Variant:
    """The variant in which the nest stands before each op of the program, batches left whole, and at its end."""
    ops = program.ops
    whole = {at for index in range(len(ops)) for at in range(index + 1, index + 1 + batched(ops, index))}
    places = [index for index in range(len(ops)) if index not in whole]
    if len(places) > PLACES:
        places = [places[number * len(places) // PLACES] for number in range(PLACES)]
    changed: list[Op] = []
    origin: list[int] = []
    moved: dict[int, int] = {}
    inserted: dict[int, Inserted] = {}

    def insert(actor: Actor) -> None:
        # The first op is no call, so that no multicall before it takes the nest as its entries.
        idle = idle_op(IDLE, actor, catalogue), Inserted()
        for op, why in (idle, *_nest_at(nest, len(changed) + 1, actor, catalogue)):
            inserted[len(changed)] = why
            changed.append(op)
            origin.append(-1)

    for index, op in enumerate(ops):
        if index in places:
            insert(op.actor)
        moved[index] = len(changed)
        changed.append(relink(op, lambda ref: Ref(moved[ref.op])))
        origin.append(index)
    insert(ops[-1].actor)
    names = " and ".join(f"{begin.call}, which {INVERSES[begin.call]} undoes," for begin in nest)
    second = program._replace(ops=tuple(changed))
    return Variant(f"with {names} between the ops", program, second, tuple(origin), MappingProxyType(inserted))


def _variants(program: Program, catalogue: Catalogue, _exempt: frozenset[Exemption]) -> Iterator[Callable[[], Variant]]:
    first = plain(program, catalogue)
    domains = len(WORLDS[program.world].domains)
    if first.ops and all(op.actor.domain < domains for op in first.ops):
        for nest in NESTS:
            yield partial(with_nests, first, nest, catalogue)


LAW: Final = Law("undo", "calls that are undone at once change nothing", _variants)
