"""Templates of drivers of the hypervisor's device models: floppy controller, I/O APIC, coalesced MMIO, timer.

Every domain has all four. Each driver mostly follows the device's rules, and now and then exceeds one bound.
"""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.device_models import COALESCED, IOAPIC, TIMER
from hvfuzz.abi.limits import SELF
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import compose
from hvfuzz.guest.program.argument_kinds import SIZES
from hvfuzz.guest.program.device_registers import COALESCED_RING, FLOPPY_DATA_PORT, FLOPPY_STATUS_PORT
from hvfuzz.guest.program.program import Op, Race

_DRIVE_SPECIFICATION: Final = 0x8E
_FLOPPY_COMMANDS: Final = (
    *((0x03, 2, 0), (0x08, 0, 2), (0x0F, 2, 0), (0x10, 0, 1), (0x45, 8 + 32, 7), (0x4A, 1, 7), (0xFF, 0, 1)),
    *((_DRIVE_SPECIFICATION, 3, 0), (_DRIVE_SPECIFICATION, 3, 0)),
)
"""(Command, bytes of parameters and data, bytes of result); 82077AA datasheet, chapter 5."""


def floppy_driver(context: Context) -> None:
    """Append a command of the floppy controller, its parameters or too many of them, and reads of its result.

    DRIVE SPECIFICATION takes parameters until one has bit 7 set: CVE-2015-3456.
    """
    out, read = context.grammar.allowed("out"), context.grammar.allowed("in")
    if out is None:
        return
    actor = context.actor()
    command, parameters, result = context.pick(_FLOPPY_COMMANDS)
    if command == _DRIVE_SPECIFICATION and context.chance(0.6):
        parameters = context.pick((30, 31, 32, 40, 70))
    count = parameters if context.chance(0.85) else context.below(36)
    context.append(Op(out, actor, (FLOPPY_DATA_PORT, 1, command)))
    for at in range(count):
        last = at == count - 1 and context.chance(0.8)
        context.append(Op(out, actor, (FLOPPY_DATA_PORT, 1, 0xC0 if last else context.below(0x80))))
    if read is not None:
        ports = (*(3 * (FLOPPY_DATA_PORT,)), FLOPPY_STATUS_PORT)
        for _ in range(result if context.chance(0.7) else context.below(10)):
            context.append(Op(read, actor, (context.pick(ports), 1)))


def ioapic_driver(context: Context) -> None:
    """Append writes and reads of I/O APIC registers, whose index is often beyond the last one."""
    write, read = context.grammar.allowed("mmio_write"), context.grammar.allowed("mmio_read")
    if write is None:
        return
    actor = context.actor()
    for _ in range(1 + context.below(3)):
        index = (
            0x10 + context.below(16) if context.chance(0.6) else context.pick((0, 1, 2, 0xF, 0x20, 0x21, 0x80, 0xFF))
        )
        context.append(Op(write, actor, (IOAPIC.page, IOAPIC.registers["IOREGSEL"], 4, index)))
        if context.chance(0.6):
            value = context.pick((0, 0x31, 0x1_0000, 0xFF00_0000, 0xFFFF_FFFF))
            size = context.pick((4, 4, 1, 8))
            context.append(Op(write, actor, (IOAPIC.page, IOAPIC.registers["IOWIN"], size, value)))
        if read is not None and context.chance(0.7):
            size = context.pick((4, 4, 8, 2))
            context.append(Op(read, actor, (IOAPIC.page, IOAPIC.registers["IOWIN"], size)))


def timer_driver(context: Context) -> None:
    """Append the set-up of a timer, mostly for an allocated port, then waits and yields until it expires."""
    grammar = context.grammar
    write, read = grammar.allowed("mmio_write"), grammar.allowed("mmio_read")
    if write is None:
        return
    actor = context.actor()
    alloc = grammar.allowed("event.alloc")
    if alloc is not None and context.chance(0.7):
        context.append(Op(alloc, actor, (SELF,)))
    settings = [("TIMER_PORT", context.pick((0, 0, 0, 1, 2, 0xFFFF_FFFF)))]
    settings += [("TIMER_PERIOD", context.pick((0, 1, 5000, 1 << 63)))] if context.chance(0.5) else []
    settings.append(("TIMER_DELAY", context.pick((1, 4096, 4097, 20_000, (1 << 64) - 1))))
    settings += [("TIMER_DELAY", 0)] if context.chance(0.1) else []
    for name, value in settings:
        context.append(Op(write, actor, (TIMER.page, TIMER.registers[name], 8, value)))
    waits = [kind for name in ("sched.block", "hlt", "sched.poll") if (kind := grammar.allowed(name)) is not None]
    if waits and context.chance(0.7):
        context.append(compose(context, context.pick(waits), actor))
    yields = grammar.allowed("sched.yield")
    for _ in range(1 + context.below(3)):
        if yields is not None:
            context.append(Op(yields, context.actor(), ()))
    if read is not None:
        name = context.pick(tuple(TIMER.registers))
        context.append(Op(read, context.actor(actor.domain), (TIMER.page, TIMER.registers[name], 8)))


def coalesced_mmio_driver(context: Context) -> None:
    """Append coalesced writes, and stores that move or corrupt the indices of their ring: CVE-2019-14821."""
    write, store, load = (context.grammar.allowed(name) for name in ("mmio_write", "store", "load"))
    if write is None:
        return
    actor = context.actor()
    for _ in range(context.pick((1, 2, 3, 17))):
        register = context.pick((0, 8, 0x18, 0xFFC))
        op = Op(write, actor, (COALESCED.page, register, context.pick(SIZES), context.below(1 << 16)))
        if store is None:
            context.append(op)
            continue
        index = context.pick((0, 1, 5, 15, 16, 17, 0x100, 0xFFFF_FFFF))
        corruption = Op(store, context.actor(actor.domain), (COALESCED_RING + context.pick((0, 4)), 4, index))
        raced = corruption.actor != actor and context.chance(0.3)
        context.append(op._replace(race=Race(context.below(2), corruption)) if raced else op)
        if context.chance(0.2):
            context.append(corruption)
    if load is not None and context.chance(0.5):
        context.append(Op(load, actor, (COALESCED_RING + 8 * context.below(4), 8)))


def device_model_driver(context: Context) -> None:
    """Append what the driver of one device model does."""
    context.pick((floppy_driver, ioapic_driver, coalesced_mmio_driver, timer_driver))(context)
