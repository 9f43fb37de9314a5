"""Templates of memory: a pool that runs dry in a protection, arrays at the hole, an exit at the last RIP."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import DIRECT_MAP, HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START
from hvfuzz.abi.limits import LARGE_ORDER, POOL
from hvfuzz.guest.generate.address_choice import RAM_GFN
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import with_fields
from hvfuzz.guest.program.argument_kinds import MSRS
from hvfuzz.guest.program.program import Actor, Op
from hvfuzz.machine.addresses import LARGE_FRAMES, U64

_ELEMENT: Final = 8
"""Bytes of an element of an array of frame numbers."""
_LOWER_END: Final = 1 << 47
"""End of the lower half of canonical addresses."""
_INSTRUCTION_BYTES: Final = (("sched.yield", 3), ("cpuid", 2), ("rdtsc", 2), ("hlt", 1), ("pause", 2))
"""Instructions and their lengths; a hypercall is VMCALL."""


def protection_that_needs_tables(context: Context) -> None:
    """Append two 2 MiB pages, mappings that leave few table pages, and a protection over the border of the two pages.

    It needs two table pages: often one is left, sometimes none, two or three. A mapping at a new GiB takes two pages,
    the first one a third, and one in a GiB that has a mapping takes one.
    """
    populate, mapper, protect = (
        context.grammar.allowed(name) for name in ("memory.populate", "device.dma_map", "memory.protect")
    )
    if populate is None or mapper is None or protect is None:
        return
    actor = context.actor()
    first = LARGE_FRAMES * (1 + context.below(2))
    context.append(with_fields(populate, actor, first=first, count=2, order=LARGE_ORDER))
    left = context.pick((1, 1, 1, 0, 2, 3))
    # The root of the device tables is there at boot.
    pairs, single = divmod(POOL - left, 2)
    for gib in range(pairs):
        context.append(with_fields(mapper, actor, iova=gib << 30, gfn=RAM_GFN, count=1, rights=3))
    for block in range(single):
        context.append(with_fields(mapper, actor, iova=(1 + block) << 21, gfn=RAM_GFN, count=1, rights=3))
    border = first + LARGE_FRAMES
    for _ in range(1 + context.below(2)):
        before = context.pick((1, 1, 2, 3))
        count, rights = before + context.pick((1, 1, 2)), context.pick((1, 1, 5))
        context.append(with_fields(protect, actor, first=border - before, count=count, rights=rights))


def exchange_at_the_hole(context: Context) -> None:
    """Append an exchange whose selected elements begin one element before, at or behind an edge of the hole.

    The array itself begins `start` elements before them, as a rule on the other side.
    """
    exchange, store = context.grammar.allowed("memory.exchange"), context.grammar.allowed("store")
    if exchange is None:
        return
    actor = context.actor()
    if store is not None:
        context.append(Op(store, actor, (DIRECT_MAP, 8, RAM_GFN)))
    start = context.pick((1, 1, 2, 8, 8, 63, 0x100, (1 << 61) - 1))
    edge = HYPERVISOR_HOLE_END if context.chance(0.8) else HYPERVISOR_HOLE_START
    base = edge + _ELEMENT * (context.pick((-1, -1, 0, 0, 1)) - start) & U64
    count = context.pick((1, 1, 1, 2))
    if start <= 8 and context.chance(0.5):
        gfns = (*(0,) * start, *range(RAM_GFN, RAM_GFN + count))
        context.append(with_fields(exchange, actor, gfns=gfns, out=base, count=count, start=start))
    else:
        out = (0,) * min(start + count, 10)
        context.append(with_fields(exchange, actor, gfns=base, out=out, count=count, start=start))


def exit_at_the_last_rip(context: Context) -> None:
    """Append a jump, by SYSCALL, to the last bytes of the lower half or of all addresses, and an instruction there.

    The instruction mostly ends exactly at the border.
    """
    write, syscall = context.grammar.allowed("wrmsr"), context.grammar.allowed("syscall")
    known = [(kind, size) for name, size in _INSTRUCTION_BYTES if (kind := context.grammar.allowed(name)) is not None]
    if write is None or syscall is None or not known:
        return
    actor: Actor = context.actor()
    kind, size = context.pick(known)
    border = context.pick((_LOWER_END, _LOWER_END, 1 << 64))
    rip = border - size - context.pick((0, 0, 0, 0, 1, -1))
    context.append(Op(write, actor, (MSRS["LSTAR"], rip & U64)))
    context.append(Op(syscall, actor, ()))
    context.append(Op(kind, actor, (0,) * len(kind.fields)))


def memory_borders(context: Context) -> None:
    """Append one of these sequences."""
    context.pick((protection_that_needs_tables, exchange_at_the_hole, exit_at_the_last_rip))(context)
