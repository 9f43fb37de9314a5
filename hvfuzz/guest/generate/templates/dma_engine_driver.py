"""Template of the driver of a DMA engine."""

from __future__ import annotations

from hvfuzz.abi.boot import DMA_ENGINES
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.argument_kinds import SIZES
from hvfuzz.guest.program.device_registers import DMA_ENGINE_REGISTERS
from hvfuzz.guest.program.program import Actor, Op
from hvfuzz.machine.addresses import PAGE_SHIFT


def dma_engine_driver(context: Context, actor: Actor | None = None) -> None:
    """Append the register writes that start a copy, and mostly a read of one register."""
    kind = context.grammar.allowed("mmio_write")
    engines = {
        number: [device for device in domain.devices if device < DMA_ENGINES]
        for number, domain in enumerate(context.domains)
    }
    owners = [number for number, devices in engines.items() if devices]
    if kind is None or not owners:
        return
    if actor is None or not engines[actor.domain]:
        actor = context.actor(context.pick(owners))
    device = context.pick(engines[actor.domain])
    pool = context.pool("iova")
    for register in ("SRC", "DST", "LENGTH", "CONTROL"):
        if register in ("SRC", "DST"):
            value = context.pick(pool) if pool and context.chance(0.7) else context.below(6) << PAGE_SHIFT
        else:
            value = context.pick((8, 64, 4096)) if register == "LENGTH" else 1
        context.append(Op(kind, actor, (device, DMA_ENGINE_REGISTERS[register], 8, value)))
    read = context.grammar.allowed("mmio_read")
    if read is not None and context.chance(0.6):
        register = context.pick(tuple(DMA_ENGINE_REGISTERS))
        context.append(Op(read, actor, (device, DMA_ENGINE_REGISTERS[register], context.pick(SIZES))))
