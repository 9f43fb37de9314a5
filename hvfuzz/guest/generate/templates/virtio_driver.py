"""Template of the driver of a virtio device, a disk or a network card (VIRTIO 1.2).

The driver mostly follows the specification, so that the device carries out its requests; a faulty request mostly
breaks one rule.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hvfuzz.abi.boot import DIRECT_MAP, DMA_ENGINES, VIRTIO_BLK
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.device_registers import VIRTIO_REGISTERS
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import Actor, Op
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, U64

PAGES: Final = 3
"""Pages that the driver maps: one of rings, two of data."""
QUEUE: Final = 0x400
"""Bytes of the first page for each queue: the descriptor table, then at these offsets the rings and buffers."""
DRIVER: Final = 0x100
DEVICE: Final = 0x180
REQUEST: Final = 0x240
STATUS: Final = 0x250
INDIRECT: Final = 0x280
# Descriptor flags (2.7.5).
F_NEXT: Final = 1
F_WRITE: Final = 2
F_INDIRECT: Final = 4
# Feature bits (6).
VERSION_1: Final = 1 << 32
FEATURES: Final = (1 << 26, 1 << 28, 1 << 29)
"""LOG_ALL, INDIRECT_DESC, EVENT_IDX."""
FAULTY: Final = 0.35
"""Fraction of requests with one faulty descriptor."""


class _Driver(NamedTuple):
    """A driver, its device, and the frame number and device address of its first page."""

    actor: Actor
    device: int
    gfn: int
    iova: int


def virtio_driver(context: Context) -> None:
    """Append the set-up of the device, requests, notifications, and accesses to registers and rings."""
    grammar = context.grammar
    mapper, store, write = grammar.allowed("device.dma_map"), grammar.allowed("store"), grammar.allowed("mmio_write")
    owned = [
        (number, device)
        for number, domain in enumerate(context.domains)
        for device in domain.devices
        if device >= DMA_ENGINES
    ]
    if mapper is None or store is None or write is None or not owned:
        return
    domain, device = context.pick(owned)
    gfn = 0x40 + context.below(0x20)
    pool = context.pool("iova")
    iova = context.pick(pool) & -PAGE_SIZE if pool and context.chance(0.3) else gfn << PAGE_SHIFT
    driver = _Driver(context.actor(domain), device, gfn, iova)
    context.append(Op(mapper, driver.actor, (iova, gfn, PAGES, 3)))
    queues = (0,) if device == VIRTIO_BLK else (0, 1)
    _set_up(context, write, driver, queues)
    for _ in range(1 + context.below(2)):
        for queue in queues:
            _request(context, store, driver, queue)
        for queue in queues[-1:] if context.chance(0.8) else queues:
            context.append(_register(write, driver, "NOTIFY", queue))
    read, load = grammar.allowed("mmio_read"), grammar.allowed("load")
    if read is not None and context.chance(0.5):
        offset = VIRTIO_REGISTERS[context.pick(tuple(VIRTIO_REGISTERS))]
        context.append(Op(read, driver.actor, (device, offset, 8)))
    if load is not None and context.chance(0.5):
        context.append(
            Op(load, driver.actor, (DIRECT_MAP + (gfn << PAGE_SHIFT) + context.pick((DEVICE, PAGE_SIZE)), 8))
        )
    deassign = grammar.allowed("device.deassign")
    if deassign is not None and context.chance(0.2):
        context.append(Op(deassign, context.actor(context.control_domain()), (device,)))


def _register(write: OpKind, driver: _Driver, name: str, value: int) -> Op:
    return Op(write, driver.actor, (driver.device, VIRTIO_REGISTERS[name], 8, value))


def _set_up(context: Context, write: OpKind, driver: _Driver, queues: tuple[int, ...]) -> None:
    """Append the device initialization (3.1.1) with random features, and that of its queues."""
    features = VERSION_1
    for feature in FEATURES:
        features |= feature if context.chance(0.5) else 0
    setting = [("DEVICE_STATUS", 3), ("DRIVER_FEATURES", features), ("DEVICE_STATUS", 0xB)]
    if features & FEATURES[0]:
        base = driver.iova + context.pick((PAGE_SIZE, 2 * PAGE_SIZE)) - (driver.iova >> PAGE_SHIFT + 3)
        setting.append(("LOG_BASE", base & (1 << 64) - 1 if context.chance(0.7) else context.below(1 << 20)))
    for queue in queues:
        first = driver.iova + QUEUE * queue
        setting += [("QUEUE_SELECT", queue)] if queue else []
        setting += [("QUEUE_SIZE", context.pick((4, 8)))] if context.chance(0.3) else []
        setting += [("QUEUE_DESC", first), ("QUEUE_DRIVER", first + DRIVER), ("QUEUE_DEVICE", first + DEVICE)]
        setting.append(("QUEUE_ENABLE", 1))
    setting.append(("DEVICE_STATUS", 0xF))
    for name, value in setting:
        context.append(_register(write, driver, name, value))


def _request(context: Context, store: OpKind, driver: _Driver, queue: int) -> None:
    """Append the stores of a descriptor chain and its entry in the available driver.

    The chain is a request of a disk, a frame to send, or a buffer to receive.
    """
    gva = DIRECT_MAP + (driver.gfn << PAGE_SHIFT) + QUEUE * queue
    iova = driver.iova + QUEUE * queue
    data = driver.iova + PAGE_SIZE

    def put(offset: int, value: int, size: int = 8) -> None:
        context.append(Op(store, driver.actor, (gva + offset, size, value & U64)))

    if driver.device == VIRTIO_BLK:
        kind = context.pick((0, 0, 1, 1, 4, 8))
        put(REQUEST, kind)
        put(REQUEST + 8, context.below(16) if context.chance(0.9) else 1 << 63)
        length = 20 if kind == 8 else 512 * context.pick((1, 1, 2, 8))
        buffers = [(iova + REQUEST, 16, 0), (data, length, 0 if kind == 1 else F_WRITE), (iova + STATUS, 1, F_WRITE)]
    elif queue:
        buffers = [(iova + REQUEST, 12, 0), (data + context.below(64), context.pick((60, 1514)), 0)]
    else:
        buffers = [(data + PAGE_SIZE, context.pick((64, 2048)), F_WRITE)]
    chain = [
        (address, length, flags | (F_NEXT if at + 1 < len(buffers) else 0), at + 1)
        for at, (address, length, flags) in enumerate(buffers)
    ]
    if context.chance(FAULTY):
        at = context.below(len(chain))
        chain[at] = _broken(context, chain[at])
    table = 0
    if context.chance(0.25):
        table = INDIRECT
        put(0, iova + INDIRECT)
        put(8, 16 * len(chain) | F_INDIRECT << 32)
    for at, (address, length, flags, following) in enumerate(chain):
        put(table + 16 * at, address)
        put(table + 16 * at + 8, length | flags << 32 | following << 48)
    index = 1 + sum(op.kind is store and op.values[0] == gva + DRIVER for op in context.ops)
    # Flags, index and first element in one store. All elements are 0: each chain starts at descriptor 0.
    put(DRIVER, (index if context.chance(0.95) else context.below(1 << 16)) << 16)


def _broken(context: Context, descriptor: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The descriptor (address, length, flags, next) with one fault."""
    address, length, flags, following = descriptor
    wrong = context.below(7)
    if wrong == 0:
        return context.pick((0, (1 << 64) - 8, 1 << 39, 0xFEE0_0000)), length, flags, following
    if wrong == 1:
        return address, context.pick((0, 1, PAGE_SIZE, 3 * PAGE_SIZE, (1 << 32) - 1)), flags, following
    if wrong == 2:
        return address, length, flags ^ F_WRITE, following
    if wrong == 3:
        return address, length, flags | F_NEXT, 0
    if wrong == 4:
        return address, length, flags | F_NEXT, context.pick((4, 16, 0xFFFF))
    if wrong == 5:
        return address, length, flags | F_INDIRECT, following
    return address & -PAGE_SIZE | PAGE_SIZE - 8, length, flags, following
