"""Adds races: another vCPU, a device or the time goes on in the middle of an op.

Before a fetch, it is mostly a store to the arguments that the hypervisor is about to read, or to tables that the
processor reads. Before a write and at a preemption point, it is mostly an access to what the call changes.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from hvfuzz.abi.boot import ARG_ARRAYS, ARG_NESTED, ARG_STRUCT, DIRECT_MAP, argument_page
from hvfuzz.abi.kinds import CALL_NUMBER, GVA, Kind
from hvfuzz.abi.limits import HEADER_SIZE
from hvfuzz.guest.generate.address_choice import edge
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.mangled_calls import HEADER_RESERVED, HEADER_SIZES, HEADER_VERSIONS, newest_layout
from hvfuzz.guest.generate.op_composition import compose
from hvfuzz.guest.generate.values import number
from hvfuzz.guest.program.argument_kinds import WORD
from hvfuzz.guest.program.device_registers import COALESCED_RING
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import ENTRY_SIZE, MAX_POINT, Actor, Op, Point, Race, is_array, points_of
from hvfuzz.machine.addresses import PAGE_SHIFT, U64

_NUMBERS: Final = MappingProxyType(
    {
        Point.FETCH: (1, 1, 1, 2, 2, 2, 3, 3, 0, 4, 5, 6, 8, 12),
        Point.WRITE: (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12, 20),
        Point.STEP: (0, 0, 0, 1, 1, 2, 3, 5, 7),
    }
)
"""Numbers of points, weighted by repetition. Fetch 0 reads the struct's header, 1 its body, later ones arrays."""
_BEYOND_A_QUOTA: Final = (65, 66, 100, 128, 129, 200, 512)
"""Counts with which a call has preemption points."""
_POINT_WEIGHTS: Final = MappingProxyType({Point.FETCH: 5, Point.WRITE: 4, Point.STEP: 4})
_ACCESSES: Final = ("load", "load", "store", "execute", "dma", "dma", "timer")
"""What goes on while the hypervisor changes its tables, weighted by repetition."""
_HEADER_FIELDS: Final = (
    (ARG_STRUCT, Kind("struct_size", 2, HEADER_SIZES)),
    (ARG_STRUCT + 2, Kind("struct_version", 2, HEADER_VERSIONS)),
    (ARG_STRUCT + 4, Kind("struct_reserved", 4, (0, *HEADER_RESERVED))),
)
_BATCH_ENTRIES: Final = tuple(
    (ARG_ARRAYS + ENTRY_SIZE * entry + 8 * word, kind)
    for entry in range(3)
    for word, kind in enumerate((CALL_NUMBER, GVA, WORD, WORD))
)
"""Offset and kind of each word of the first three multicall entries: number, args, status, result."""


def with_race(context: Context, op: Op, point: Point | None = None) -> Op:
    """`op` with a race: mostly a store to its arguments by the other vCPU of the domain.

    At such a `point`, if it is given. `op` itself if it can be raced at no point.
    """
    points = points_of(op.kind)
    if not points:
        return op
    domain, vcpu = op.actor
    vcpus = context.domains[domain].vcpus
    if vcpus > 1:
        racer = Actor(domain, (vcpu + 1) % vcpus)
    else:
        racer = context.actor((domain + 1) % len(context.domains))
    if point is None:
        point = _point(context, points)
    number_ = context.pick(_NUMBERS[point]) if context.chance(0.95) else context.below(MAX_POINT + 1)
    other = None
    if point is Point.FETCH:
        other = _change_of_the_fetched(context, op, racer) if vcpus > 1 else None
    elif context.chance(0.8):
        other = _access_to_the_changed(context, op, racer)
    if other is None:
        other = compose(context, context.grammar.choose_kind(context.rng), racer if context.chance(0.85) else None)
    if point is Point.STEP and context.chance(0.6):
        op = _of_more_work(context, op)
    return op._replace(race=Race(number_, other, point))


def _of_more_work(context: Context, op: Op) -> Op:
    """`op` with a count for which it has preemption points, if it takes a count of pages."""
    traits = context.grammar.traits[op.kind]
    if traits.count is None or traits.arrays or op.kind.follow is not None:
        return op
    values = list(op.values)
    values[traits.count] = context.pick(_BEYOND_A_QUOTA)
    return op._replace(values=tuple(values))


def _point(context: Context, points: tuple[Point, ...]) -> Point:
    choice = context.below(sum(_POINT_WEIGHTS[point] for point in points))
    for point in points:
        choice -= _POINT_WEIGHTS[point]
        if choice < 0:
            return point
    return points[0]


def _change_of_the_fetched(context: Context, op: Op, racer: Actor) -> Op | None:
    """A store to what is fetched for `op`; None if that is not known, and sometimes else."""
    store = context.grammar.allowed("store")
    operand = _operand(op)
    takes_arguments = op.kind.number is not None or op.kind.family == "raw"
    if store is None or not (takes_arguments or operand is not None) or not context.chance(0.65):
        return None
    if operand is None:
        return _argument_overwrite(context, op, store, racer)
    return _operand_change(context, operand, store, racer)


def _access_to_the_changed(context: Context, op: Op, racer: Actor) -> Op | None:
    """An access to a page that `op` names, or what a device of its domain, or the time, does meanwhile."""
    kind = context.grammar.allowed(context.pick(_ACCESSES))
    if kind is None:
        return None
    if not kind.executed:
        return compose(context, kind, op.actor if context.chance(0.8) else racer)
    access = compose(context, kind, racer)
    pages = [value for at in context.grammar.traits[op.kind].gfns if isinstance(value := op.values[at], int)]
    if not pages or context.chance(0.2):
        return access
    page = context.pick(pages) + (context.below(4) if context.chance(0.3) else 0)
    place = DIRECT_MAP + (page << PAGE_SHIFT) + 8 * context.below(4) & U64
    values = list(access.values)
    values[kind.index["gva"]] = place
    return access._replace(values=tuple(values))


def _operand(op: Op) -> int | None:
    """The address that an instruction names: of its operand, of a table, of a raw call's struct, of queued writes."""
    if op.kind.number is not None:
        return None
    if op.kind.name == "mmio_write":
        return COALESCED_RING
    for field, value in zip(op.kind.fields, op.values, strict=True):
        if field.kind is GVA and isinstance(value, int):
            return value
    return None


def _operand_change(context: Context, operand: int, store: OpKind, racer: Actor) -> Op:
    """A store to the operand of an instruction, or an edit of the entry that maps it."""
    pte = context.grammar.allowed("pte")
    if pte is not None and context.chance(0.5):
        entry = number(context, pte.fields[pte.index["entry"]].kind, racer)
        return Op(pte, racer, (operand, 1, entry))
    return Op(store, racer, ((operand & ~7) + 8 * context.below(4) & U64, 8, number(context, WORD, racer)))


def _argument_overwrite(context: Context, op: Op, store: OpKind, racer: Actor) -> Op:
    """A store to a word of the arguments of `op`."""
    offset, kind = context.pick(_argument_words(op))
    value = number(context, kind, op.actor) if context.chance(0.6) else edge(context, kind)
    return Op(store, racer, (argument_page(op.actor.vcpu) + offset, kind.width, value))


def _argument_words(op: Op) -> list[tuple[int, Kind]]:
    """(Offset in the argument page, kind) of each value that `op` puts there; a repeated entry is chosen more often."""
    words = list(_HEADER_FIELDS)
    layout = newest_layout(op.kind)
    if layout is not None:
        # Fields count twice: they matter more often than the header.
        words += 2 * [(layout.offsets[field.name], field.kind) for field in layout.fields]
    if op.kind.follow is not None:
        words += _BATCH_ENTRIES
        words.append((ARG_NESTED + HEADER_SIZE, WORD))
    start = ARG_ARRAYS if layout is not None else ARG_STRUCT
    for field, value in zip(op.kind.fields, op.values, strict=True):
        if is_array(field.kind) and isinstance(value, tuple):
            for place in range(len(value)):
                element = field.kind.element_at(place)
                words += 2 * [(start + place * element.width, element)]
            width = field.kind.element_at(0).width
            start = (start + len(value) * width + 7) & ~7
    return words
