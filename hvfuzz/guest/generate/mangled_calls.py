"""Malforms calls: wrong header fields, wrong struct addresses, and raw calls instead of typed ones."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import ARG_ARRAYS, argument_page
from hvfuzz.abi.layout import Layout
from hvfuzz.abi.limits import STRUCT_MAX
from hvfuzz.guest.generate.address_choice import gva
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import MAX_ELEMENTS, Mangle, Op, Ref
from hvfuzz.machine.addresses import PAGE_SIZE

# Values to try in the header of an argument struct.
HEADER_SIZES: Final = (0, 4, 7, 8, 9, 15, 16, 24, 32, 40, 48, 56, 64, STRUCT_MAX, STRUCT_MAX + 1, 0x7FFF, 0xFFFF)
HEADER_VERSIONS: Final = (1, 2, 0, 3, 0x7FFF, 0xFFFF)
HEADER_RESERVED: Final = (1, 0x8000_0000, 0xFFFF_FFFF)


def with_mangle(context: Context, op: Op) -> Op:
    """`op` with a wrong size, version, reserved word or address of its argument struct; `op` itself if it has none."""
    layout = newest_layout(op.kind)
    if layout is None:
        return op
    size = version = pointer = reserved = None
    choice = context.below(8)
    if choice < 3:
        near = layout.size + context.pick((-8, -4, -1, 1, 4, 8, 16))
        size = near & 0xFFFF if context.chance(0.5) else context.pick(HEADER_SIZES)
    if 2 <= choice < 5:
        version = context.pick(HEADER_VERSIONS)
    if choice == 5:
        reserved = context.pick(HEADER_RESERVED)
    if choice >= 6:
        if context.chance(0.5):
            # The struct ends at, or crosses, the end of its page.
            pointer = argument_page(op.actor.vcpu) + PAGE_SIZE - context.pick((layout.size, 8, 16, 4, 1))
        else:
            pointer = gva(context, op.actor)
    return op._replace(mangle=Mangle(size, version, pointer, reserved))


def as_raw_call(context: Context, op: Op) -> Op:
    """`op` as a raw call: a blob, whose words are its struct, or a VMCALL over what the argument page holds.

    `op` itself if it is no hypercall, or if both kinds have weight 0.
    """
    layout = newest_layout(op.kind)
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
            numbers.append(_predicted_result(context, value))
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


def _predicted_result(context: Context, ref: Ref) -> int:
    """The likely result of an earlier op: a domain's resources are numbered from 0 in order of creation."""
    if ref.op >= len(context.ops):
        return 0
    producer = context.ops[ref.op]
    return sum(op.kind is producer.kind and op.actor.domain == producer.actor.domain for op in context.ops[: ref.op])


def newest_layout(kind: OpKind) -> Layout | None:
    """The argument struct at the newest ABI version; None for an instruction."""
    declaration = kind.declaration
    return None if declaration is None else declaration.layouts[max(declaration.layouts)]
