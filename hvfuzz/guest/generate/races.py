"""Adds races: another vCPU acts while the hypervisor reads the arguments of a call, or the processor its own tables."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import ARG_ARRAYS, ARG_NESTED, ARG_STRUCT, argument_page
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
from hvfuzz.guest.program.program import ENTRY_SIZE, MAX_FETCH, Actor, Op, Race, is_array
from hvfuzz.machine.addresses import U64

_FETCHES: Final = (1, 1, 1, 2, 2, 2, 3, 3, 0, 4, 5, 6, 8, 12)
"""Fetch numbers, weighted by repetition: 0 reads the struct's header, 1 its body, later ones arrays."""
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


def with_race(context: Context, op: Op) -> Op:
    """`op` with a race: mostly a store to its arguments by the other vCPU of the domain.

    `op` itself if no guest memory is fetched for it.
    """
    if not op.kind.fetches:
        return op
    domain, vcpu = op.actor
    vcpus = context.domains[domain].vcpus
    if vcpus > 1:
        racer = Actor(domain, (vcpu + 1) % vcpus)
    else:
        racer = context.actor((domain + 1) % len(context.domains))
    store = context.grammar.allowed("store")
    operand = _operand(op)
    takes_arguments = op.kind.number is not None or op.kind.family == "raw"
    if store is not None and vcpus > 1 and (takes_arguments or operand is not None) and context.chance(0.65):
        if operand is None:
            other = _argument_overwrite(context, op, store, racer)
        else:
            other = _operand_change(context, operand, store, racer)
    else:
        other = compose(context, context.grammar.choose_kind(context.rng), racer if context.chance(0.85) else None)
    fetch = context.pick(_FETCHES) if context.chance(0.95) else context.below(MAX_FETCH + 1)
    return op._replace(race=Race(fetch, other))


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
