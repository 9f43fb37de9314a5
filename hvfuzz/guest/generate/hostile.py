"""Makes ops hostile: races against their arguments, mangled headers and pointers, raw structs."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import ARG_ARRAYS, ARG_NESTED, ARG_STRUCT, argument_page
from hvfuzz.abi.kinds import CALL_NUMBER, GVA, Kind
from hvfuzz.abi.layout import Layout
from hvfuzz.abi.limits import HEADER_SIZE, STRUCT_MAX
from hvfuzz.guest.generate.address_choice import edge, gva
from hvfuzz.guest.generate.compose import compose
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.values import number
from hvfuzz.guest.program.ops import WORD, OpKind
from hvfuzz.guest.program.program import MAX_ELEMENTS, MAX_FETCH, Actor, Mangle, Op, Race, Ref, is_array
from hvfuzz.machine.addresses import PAGE_SIZE, U64

_FETCHES: Final = (1, 1, 1, 2, 2, 2, 3, 3, 0, 4, 5, 6, 8, 12)
"""Fetch numbers by how often they matter: 0 is the struct's header, 1 its body, then arrays."""
_SIZES: Final = (0, 4, 7, 8, 9, 15, 16, 24, 32, 40, 48, 56, 64, STRUCT_MAX, STRUCT_MAX + 1, 0x7FFF, 0xFFFF)
_VERSIONS: Final = (1, 2, 0, 3, 0x7FFF, 0xFFFF)
_RESERVED: Final = (1, 0x8000_0000, 0xFFFF_FFFF)
_HEADER: Final = (
    (ARG_STRUCT, Kind("struct_size", 2, _SIZES)),
    (ARG_STRUCT + 2, Kind("struct_version", 2, _VERSIONS)),
    (ARG_STRUCT + 4, Kind("struct_reserved", 4, (0, *_RESERVED))),
)
_BATCHED: Final = tuple(
    (ARG_ARRAYS + 32 * entry + 8 * word, kind)
    for entry in range(3)
    for word, kind in enumerate((CALL_NUMBER, GVA, WORD, WORD))
)
"""The first entries of a multicall: number, args, status, result."""


def with_race(context: Context, op: Op) -> Op:
    """`op` raced by another vCPU, mostly one that writes over the arguments while they are read."""
    if not op.kind.fetches:
        return op
    domain, vcpu = op.actor
    vcpus = context.domains[domain].vcpus
    if vcpus > 1:
        racer = Actor(domain, (vcpu + 1) % vcpus)
    else:
        racer = context.actor((domain + 1) % len(context.domains))
    store = context.grammar.allowed("store")
    if store is not None and vcpus > 1 and context.chance(0.65):
        other = _overwrite(context, op, store, racer)
    else:
        other = compose(context, context.grammar.kind(context.rng), racer if context.chance(0.85) else None)
    fetch = context.pick(_FETCHES) if context.chance(0.95) else context.below(MAX_FETCH + 1)
    return op._replace(race=Race(fetch, other))


def _overwrite(context: Context, op: Op, store: OpKind, racer: Actor) -> Op:
    """A store to a word of the arguments that `op` is called with."""
    offset, kind = context.pick(_words(op))
    value = number(context, kind, op.actor) if context.chance(0.6) else edge(context, kind)
    return Op(store, racer, (argument_page(op.actor.vcpu) + offset, kind.width, value))


def _words(op: Op) -> list[tuple[int, Kind]]:
    """What `op` puts into its argument page: offset and kind of each part."""
    words = list(_HEADER)
    layout = _layout(op.kind)
    if layout is not None:
        # Twice: a field matters more often than the header.
        words += 2 * [(layout.offsets[field.name], field.kind) for field in layout.fields]
    if op.kind.follow is not None:
        words += _BATCHED
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


def _layout(kind: OpKind) -> Layout | None:
    declaration = kind.declaration
    return None if declaration is None else declaration.layouts[max(declaration.layouts)]


def with_mangle(context: Context, op: Op) -> Op:
    """`op` with a wrong part of its header, or with its struct somewhere else."""
    layout = _layout(op.kind)
    if layout is None:
        return op
    size = version = pointer = reserved = None
    choice = context.below(8)
    if choice < 3:
        near = layout.size + context.pick((-8, -4, -1, 1, 4, 8, 16))
        size = near & 0xFFFF if context.chance(0.5) else context.pick(_SIZES)
    if 2 <= choice < 5:
        version = context.pick(_VERSIONS)
    if choice == 5:
        reserved = context.pick(_RESERVED)
    if choice >= 6:
        if context.chance(0.5):
            # The struct ends at, or crosses, the end of its page.
            pointer = argument_page(op.actor.vcpu) + PAGE_SIZE - context.pick((layout.size, 8, 16, 4, 1))
        else:
            pointer = gva(context, op.actor)
    return op._replace(mangle=Mangle(size, version, pointer, reserved))


def squashed(context: Context, op: Op) -> Op:
    """`op` as a raw call: the same struct as words that can be changed one by one, or only its number."""
    layout = _layout(op.kind)
    blob, vmcall = context.grammar.allowed("blob"), context.grammar.allowed("vmcall")
    if layout is None or op.kind.number is None or (blob is None and vmcall is None):
        return op
    page = argument_page(op.actor.vcpu)
    if blob is None or (vmcall is not None and context.chance(0.2)):
        assert vmcall is not None
        pointer = op.mangle.pointer if op.mangle is not None else None
        return Op(vmcall, op.actor, (op.kind.number, page if pointer is None else pointer), None, op.race)
    numbers: list[int] = []
    for value in op.values:
        if isinstance(value, Ref):
            numbers.append(_guess(context, value))
        else:
            numbers.append(value if isinstance(value, int) else page + ARG_ARRAYS)
    mangle = op.mangle or Mangle()
    data = layout.encode(
        numbers[: len(layout.fields)],
        size=mangle.size,
        version=mangle.version,
        reserved=mangle.reserved or 0,
    )
    words = tuple(int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8))
    return Op(blob, op.actor, (op.kind.number, words[:MAX_ELEMENTS]), None, op.race)


def _guess(context: Context, ref: Ref) -> int:
    """What the result will be: resources are numbered from 0 in the order in which a domain gets them."""
    if ref.op >= len(context.ops):
        return 0
    producer = context.ops[ref.op]
    return sum(op.kind is producer.kind and op.actor.domain == producer.actor.domain for op in context.ops[: ref.op])


def mangled_value(context: Context, value: int, width: int) -> int:
    """`value` after one small change of its bits, cut off to `width` bytes."""
    choice = context.below(7)
    if choice < 2:
        value += context.pick((1, -1, 2, -2, 4, 8, -8, 16))
    elif choice == 2:
        value += context.pick((PAGE_SIZE, -PAGE_SIZE, 1 << 21, 1 << 30, 512, -512))
    elif choice < 5:
        value ^= 1 << context.below(8 * width)
    elif choice == 5:
        value = ~value if context.chance(0.5) else -value
    else:
        value <<= context.pick((1, 3, 12)) if context.chance(0.5) else 0
        value ^= 0xFF << 8 * context.below(width)
    return value & U64 & (1 << 8 * width) - 1
