"""Makes the arguments of one op agree: counts with arrays, flags with references, values with device registers."""

from __future__ import annotations

from hvfuzz.abi.limits import LARGE_ORDER
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.grammar.op_traits import Traits
from hvfuzz.guest.program.device_registers import REGISTERS
from hvfuzz.guest.program.program import Ref, Value
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT, PAGE_SIZE


def make_arguments_agree(context: Context, traits: Traits, values: list[Value]) -> None:
    """Adjust `values` in place so that counts, alignments, flags and register values mostly fit each other."""
    for flags, bit, position in traits.ref_flags:
        current = values[flags]
        if isinstance(current, int) and context.chance(0.9):
            values[flags] = current | bit if isinstance(values[position], Ref) else current & ~bit
    if traits.readonly is not None:
        _agree_rights(context, traits, values)
    if traits.arrays and traits.count is not None and context.chance(0.75):
        elements = values[traits.arrays[0]]
        if isinstance(elements, tuple):
            values[traits.count] = len(elements)
    for at in traits.partial_counts:
        total = values[traits.count] if traits.count is not None else 0
        if isinstance(total, int) and context.chance(0.8):
            values[at] = context.below(min(total, 64) + 1) if context.chance(0.4) else 0
    if traits.kind.follow is not None and traits.count is not None:
        values[traits.count] = 1 + context.below(4)
    if traits.order is not None and values[traits.order] == LARGE_ORDER and context.chance(0.85):
        for at in traits.gfns:
            gfn = values[at]
            if isinstance(gfn, int):
                values[at] = max(gfn // LARGE_FRAMES, 1) % 4 * LARGE_FRAMES
        if traits.count is not None:
            values[traits.count] = 1
    if traits.kind.name == "mmio_write" and context.chance(0.8):
        _agree_register(context, traits, values)


def _agree_rights(context: Context, traits: Traits, values: list[Value]) -> None:
    """Mostly set the READONLY flag if the grant that is referred to gives no write access."""
    flags, bit = traits.readonly or (0, 0)
    current = values[flags]
    for consumer in traits.consumers:
        source = values[consumer.position]
        if isinstance(source, Ref) and isinstance(current, int):
            producer = context.ops[source.op]
            rights = [producer.values[at] for at in context.grammar.traits[producer.kind].positions.get("rights", ())]
            if any(isinstance(each, int) and not each & 2 for each in rights) and context.chance(0.9):
                values[flags] = current | bit


def _agree_register(context: Context, traits: Traits, values: list[Value]) -> None:
    _, register, size, value = range(4)
    name = next((name for name, number in REGISTERS.items() if number == values[register]), "")
    values[size] = 8
    if name in ("SRC", "DST", "QUEUE_DESC", "QUEUE_DRIVER", "QUEUE_DEVICE", "LOG_BASE"):
        pool = context.pool("iova")
        values[value] = context.pick(pool) if pool else context.below(6) << PAGE_SHIFT
    elif name == "LENGTH":
        values[value] = context.pick((8, 64, PAGE_SIZE, 2 * PAGE_SIZE))
    elif name in ("CONTROL", "QUEUE_ENABLE", "ACK"):
        values[value] = 1
    elif name in ("NOTIFY", "QUEUE_SELECT"):
        values[value] = context.below(3)
    elif name == "DEVICE_STATUS":
        values[value] = context.pick((0, 3, 0xB, 0xF))
