"""Templates of devices: one past the last, device 0 and its registers, the control domain's, the interrupt range."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import DEVICES, DIRECT_MAP, DMA_ENGINES, MMIO_BASE, MMIO_SIZE
from hvfuzz.abi.limits import IOVA_HOLE
from hvfuzz.guest.generate.address_choice import RAM_GFN
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import with_fields
from hvfuzz.guest.program.argument_kinds import SIZES
from hvfuzz.guest.program.device_registers import DMA_ENGINE_REGISTERS
from hvfuzz.guest.program.program import Actor, Op
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE

_ALL: Final = 3
"""Rights R and W."""
_MEMORY: Final = 0x10_0000
"""Device address at which these templates map memory."""
_WINDOW: Final = 0x20_0000
"""Device address at which they map a register page."""
_WINDOWS_GFN: Final = MMIO_BASE >> PAGE_SHIFT


def one_past_the_devices(context: Context) -> None:
    """Append calls and accesses with the number of devices as a device number, or the last register page's end."""
    grammar, actor = context.grammar, context.actor()
    control = context.actor(context.control_domain())
    page = DIRECT_MAP + MMIO_BASE + DEVICES * MMIO_SIZE
    # One past the last device, the last byte of its page, and one past the last register of a DMA engine.
    past = context.pick((DEVICES, DEVICES, DEVICES - 1, 0))
    register = max(DMA_ENGINE_REGISTERS.values()) + 8 if context.chance(0.5) else MMIO_SIZE - 8
    address = page + context.pick((0, 0, 0, 8, 0x30, -8, -1))
    size = context.pick(SIZES)
    offered: tuple[tuple[str, Actor, dict[str, int]], ...] = (
        ("load", actor, {"gva": address, "size": size}),
        ("store", actor, {"gva": address, "size": size, "value": 1}),
        ("mmio_read", actor, {"device": past, "register": register, "size": 8}),
        ("mmio_write", actor, {"device": past, "register": register, "size": 8, "value": 1}),
        ("device.assign", control, {"device": DEVICES, "to": actor.domain}),
        ("device.deassign", control, {"device": DEVICES}),
        ("device.dma_submit", actor, {"device": DEVICES, "from": 0x1000, "to": 0x2000, "length": 8}),
        ("device.dma_map", actor, {"iova": _WINDOW, "gfn": _WINDOWS_GFN + DEVICES, "count": 1, "rights": _ALL}),
    )
    kinds = [(kind, who, values) for name, who, values in offered if (kind := grammar.allowed(name)) is not None]
    for _ in range(2 + context.below(3) if kinds else 0):
        kind, who, values = context.pick(kinds)
        context.append(with_fields(kind, who, **values))


def device_of_the_control_domain(context: Context) -> None:
    """Append what gives a device to the control domain, whose number is 0, uses it, and assigns it to another."""
    grammar = context.grammar
    assign, deassign, submit = (
        grammar.allowed(name) for name in ("device.assign", "device.deassign", "device.dma_submit")
    )
    if assign is None or deassign is None:
        return
    control = Actor(context.control_domain(), 0)
    device = context.below(DMA_ENGINES)
    other = context.below(len(context.domains))
    context.append(with_fields(deassign, control, device=device))
    context.append(with_fields(assign, control, device=device, to=control.domain))
    map_window(context, control, device)
    if submit is not None and context.chance(0.5):
        context.append(with_fields(submit, control, device=device, from_=_MEMORY, to=_MEMORY + 0x100, length=8))
    context.append(with_fields(assign, control, device=device, to=other))
    if context.chance(0.5):
        context.append(with_fields(deassign, control, device=device))
        context.append(with_fields(assign, control, device=device, to=other))


def map_window(context: Context, actor: Actor, device: int) -> None:
    """Append mappings of memory and of the registers of `device` for the devices of the domain."""
    mapper = context.grammar.allowed("device.dma_map")
    if mapper is not None:
        context.append(with_fields(mapper, actor, iova=_MEMORY, gfn=RAM_GFN, count=1, rights=_ALL))
        gfn = _WINDOWS_GFN + device
        context.append(with_fields(mapper, actor, iova=_WINDOW, gfn=gfn, count=1, rights=_ALL))


def registers_for_peers(context: Context) -> None:
    """Append a domain that has both DMA engines, mostly with the registers of device 0 mapped, then what unmaps them.

    Before and after it the other engine copies to the registers.
    """
    grammar = context.grammar
    assign, deassign, mapper, write = (
        grammar.allowed(name) for name in ("device.assign", "device.deassign", "device.dma_map", "mmio_write")
    )
    if assign is None or deassign is None or mapper is None:
        return
    control = Actor(context.control_domain(), 0)
    owner = context.actor()
    device = 0 if context.chance(0.8) else 1
    for number in range(DMA_ENGINES):
        context.append(with_fields(deassign, control, device=number))
        context.append(with_fields(assign, control, device=number, to=owner.domain))
    map_window(context, owner, device)

    def copy_to_registers() -> None:
        if write is not None:
            for name, value in (("SRC", _MEMORY), ("DST", _WINDOW), ("LENGTH", 0x20), ("CONTROL", 1)):
                context.append(Op(write, owner, (1 - device, DMA_ENGINE_REGISTERS[name], 8, value)))

    copy_to_registers()
    if context.chance(0.5):
        gfn = _WINDOWS_GFN + device
        context.append(with_fields(mapper, owner, iova=_WINDOW + PAGE_SIZE, gfn=gfn, count=1, rights=_ALL))
    context.append(with_fields(deassign, control, device=device))
    if context.chance(0.7):
        heir = context.below(len(context.domains))
        context.append(with_fields(assign, control, device=device, to=heir))
    copy_to_registers()


def interrupt_range(context: Context) -> None:
    """Append copies by a DMA engine that begin or end at a border of the range of interrupt messages."""
    mapper, write, submit = (
        context.grammar.allowed(name) for name in ("device.dma_map", "mmio_write", "device.dma_submit")
    )
    engines = [(number, each) for number, domain in enumerate(context.domains) for each in domain.devices]
    engines = [(number, device) for number, device in engines if device < DMA_ENGINES]
    if mapper is None or not engines:
        return
    domain, device = context.pick(engines)
    actor = context.actor(domain)
    below, above = IOVA_HOLE.start - PAGE_SIZE, IOVA_HOLE.stop
    for iova in (below, above):
        gfn = RAM_GFN + context.below(2)
        context.append(with_fields(mapper, actor, iova=iova, gfn=gfn, count=1, rights=_ALL))
    for _ in range(1 + context.below(2)):
        inside = context.pick((IOVA_HOLE.start, IOVA_HOLE.start, IOVA_HOLE.start - 4, IOVA_HOLE.stop - 8))
        ends = (inside, context.pick((below, above)))
        source, target = ends if context.chance(0.4) else ends[::-1]
        length = context.pick((4, 8, 8, 16))
        if write is not None:
            for name, value in (("SRC", source), ("DST", target), ("LENGTH", length), ("CONTROL", 1)):
                context.append(Op(write, actor, (device, DMA_ENGINE_REGISTERS[name], 8, value)))
        if submit is not None and context.chance(0.4):
            context.append(with_fields(submit, actor, device=device, from_=source, to=target, length=length))


def device_borders(context: Context) -> None:
    """Append one of these sequences."""
    context.pick((one_past_the_devices, device_of_the_control_domain, registers_for_peers, interrupt_range))(context)
