"""What drivers do in a row: of virtio devices, which reach their pages, and of the models that every domain has.

A driver is right in most of what it does, so that requests are carried out; where it is wrong, it mostly breaks one
rule.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hvfuzz.abi.boot import COALESCED, COALESCED_GFN, DIRECT_MAP, DMA_ENGINES, FIFO_PORT, IOAPIC, TIMER, VIRTIO_BLK
from hvfuzz.abi.limits import SELF
from hvfuzz.guest.generate.compose import compose
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.program.ops import IOAPIC_REGISTERS, SIZES, TIMER_REGISTERS, VIRTIO_REGISTERS, OpKind
from hvfuzz.guest.program.program import Actor, Op, Race
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE

PAGES: Final = 3
"""Rings, then two pages of data."""
QUEUE: Final = 0x400
"""Each queue has this much of the first page: descriptors, and from these offsets on the rings and the rest."""
DRIVER: Final = 0x100
DEVICE: Final = 0x180
REQUEST: Final = 0x240
STATUS: Final = 0x250
INDIRECT: Final = 0x280
F_NEXT: Final = 1
F_WRITE: Final = 2
F_INDIRECT: Final = 4
VERSION_1: Final = 1 << 32
FEATURES: Final = (1 << 26, 1 << 28, 1 << 29)
"""LOG_ALL, INDIRECT_DESC, EVENT_IDX."""
FAULTY: Final = 0.35
DRIVE_SPECIFICATION: Final = 0x8E
RING: Final = DIRECT_MAP + (COALESCED_GFN << PAGE_SHIFT)
"""Where queued writes are found."""
FLOPPY: Final = (
    *((0x03, 2, 0), (0x08, 0, 2), (0x0F, 2, 0), (0x10, 0, 1), (0x45, 8 + 32, 7), (0x4A, 1, 7), (0xFF, 0, 1)),
    *((DRIVE_SPECIFICATION, 3, 0), (DRIVE_SPECIFICATION, 3, 0)),
)
"""(command, parameters and data, result), in bytes, of what the floppy controller does."""
DATA: Final = 5
"""Offset of the port of its FIFO."""


class _Ring(NamedTuple):
    """Where a driver has its pages: frame and device address of the first."""

    actor: Actor
    device: int
    gfn: int
    iova: int


def virtio_story(context: Context) -> None:
    """Append what a driver does: map, negotiate, set up the queues, make requests available, notify, and look."""
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
    ring = _Ring(context.actor(domain), device, gfn, iova)
    context.append(Op(mapper, ring.actor, (iova, gfn, PAGES, 3)))
    queues = (0,) if device == VIRTIO_BLK else (0, 1)
    _set_up(context, write, ring, queues)
    for _ in range(1 + context.below(2)):
        for queue in queues:
            _request(context, store, ring, queue)
        for queue in queues[-1:] if context.chance(0.8) else queues:
            context.append(_register(write, ring, "NOTIFY", queue))
    read, load = grammar.allowed("mmio_read"), grammar.allowed("load")
    if read is not None and context.chance(0.5):
        offset = VIRTIO_REGISTERS[context.pick(tuple(VIRTIO_REGISTERS))]
        context.append(Op(read, ring.actor, (device, offset, 8)))
    if load is not None and context.chance(0.5):
        context.append(Op(load, ring.actor, (DIRECT_MAP + (gfn << PAGE_SHIFT) + context.pick((DEVICE, PAGE_SIZE)), 8)))
    assign = grammar.allowed("device.deassign")
    if assign is not None and context.chance(0.2):
        context.append(Op(assign, context.actor(context.control()), (device,)))


def fifo_story(context: Context) -> None:
    """Append a command of the floppy controller with its parameters, or more of them than it takes, and its result."""
    out, read = context.grammar.allowed("out"), context.grammar.allowed("in")
    if out is None:
        return
    actor = context.actor()
    command, parameters, result = context.pick(FLOPPY)
    if command == DRIVE_SPECIFICATION and context.chance(0.6):
        parameters = context.pick((30, 31, 32, 40, 70))
    count = parameters if context.chance(0.85) else context.below(36)
    context.append(Op(out, actor, (FIFO_PORT + DATA, 1, command)))
    for at in range(count):
        last = at == count - 1 and context.chance(0.8)
        context.append(Op(out, actor, (FIFO_PORT + DATA, 1, 0xC0 if last else context.below(0x80))))
    if read is not None:
        for _ in range(result if context.chance(0.7) else context.below(10)):
            context.append(Op(read, actor, (FIFO_PORT + context.pick((DATA, DATA, DATA, 4)), 1)))


def ioapic_story(context: Context) -> None:
    """Append what programs, and reads, registers of an I/O APIC: those that there are, and others."""
    write, read = context.grammar.allowed("mmio_write"), context.grammar.allowed("mmio_read")
    if write is None:
        return
    actor = context.actor()
    for _ in range(1 + context.below(3)):
        index = (
            0x10 + context.below(16) if context.chance(0.6) else context.pick((0, 1, 2, 0xF, 0x20, 0x21, 0x80, 0xFF))
        )
        context.append(Op(write, actor, (IOAPIC, IOAPIC_REGISTERS["IOREGSEL"], 4, index)))
        if context.chance(0.6):
            value = context.pick((0, 0x31, 0x1_0000, 0xFF00_0000, 0xFFFF_FFFF))
            context.append(Op(write, actor, (IOAPIC, IOAPIC_REGISTERS["IOWIN"], context.pick((4, 4, 1, 8)), value)))
        if read is not None and context.chance(0.7):
            context.append(Op(read, actor, (IOAPIC, IOAPIC_REGISTERS["IOWIN"], context.pick((4, 4, 8, 2)))))


def timer_story(context: Context) -> None:
    """Append what arms a timer, mostly for a port that there is, and what its domain does until it expires."""
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
        context.append(Op(write, actor, (TIMER, TIMER_REGISTERS[name], 8, value)))
    waits = [kind for name in ("sched.block", "hlt", "sched.poll") if (kind := grammar.allowed(name)) is not None]
    if waits and context.chance(0.7):
        context.append(compose(context, context.pick(waits), actor))
    passes = grammar.allowed("sched.yield")
    for _ in range(1 + context.below(3)):
        if passes is not None:
            context.append(Op(passes, context.actor(), ()))
    if read is not None:
        name = context.pick(tuple(TIMER_REGISTERS))
        context.append(Op(read, context.actor(actor.domain), (TIMER, TIMER_REGISTERS[name], 8)))


def queue_story(context: Context) -> None:
    """Append writes to the window that queues them, what drains their ring, and lies about its indices."""
    write, store, load = (context.grammar.allowed(name) for name in ("mmio_write", "store", "load"))
    if write is None:
        return
    actor = context.actor()
    for _ in range(context.pick((1, 2, 3, 17))):
        register = context.pick((0, 8, 0x18, 0xFFC))
        op = Op(write, actor, (COALESCED, register, context.pick(SIZES), context.below(1 << 16)))
        if store is None:
            context.append(op)
            continue
        index = context.pick((0, 1, 5, 15, 16, 17, 0x100, 0xFFFF_FFFF))
        lie = Op(store, context.actor(actor.domain), (RING + context.pick((0, 4)), 4, index))
        raced = lie.actor != actor and context.chance(0.3)
        context.append(op._replace(race=Race(context.below(2), lie)) if raced else op)
        if context.chance(0.2):
            context.append(lie)
    if load is not None and context.chance(0.5):
        context.append(Op(load, actor, (RING + 8 * context.below(4), 8)))


def model_story(context: Context) -> None:
    """Append what the driver of one of the hypervisor's device models does."""
    context.pick((fifo_story, ioapic_story, queue_story, timer_story))(context)


def _register(write: OpKind, ring: _Ring, name: str, value: int) -> Op:
    return Op(write, ring.actor, (ring.device, VIRTIO_REGISTERS[name], 8, value))


def _set_up(context: Context, write: OpKind, ring: _Ring, queues: tuple[int, ...]) -> None:
    """Initialization by the book (3.1.1), with features as the dice fall."""
    features = VERSION_1
    for feature in FEATURES:
        features |= feature if context.chance(0.5) else 0
    setting = [("DEVICE_STATUS", 3), ("DRIVER_FEATURES", features), ("DEVICE_STATUS", 0xB)]
    if features & FEATURES[0]:
        base = ring.iova + context.pick((PAGE_SIZE, 2 * PAGE_SIZE)) - (ring.iova >> PAGE_SHIFT + 3)
        setting.append(("LOG_BASE", base & (1 << 64) - 1 if context.chance(0.7) else context.below(1 << 20)))
    for queue in queues:
        first = ring.iova + QUEUE * queue
        setting += [("QUEUE_SELECT", queue)] if queue else []
        setting += [("QUEUE_SIZE", context.pick((4, 8)))] if context.chance(0.3) else []
        setting += [("QUEUE_DESC", first), ("QUEUE_DRIVER", first + DRIVER), ("QUEUE_DEVICE", first + DEVICE)]
        setting.append(("QUEUE_ENABLE", 1))
    setting.append(("DEVICE_STATUS", 0xF))
    for name, value in setting:
        context.append(_register(write, ring, name, value))


def _request(context: Context, store: OpKind, ring: _Ring, queue: int) -> None:
    """Make a chain and put it into the available ring: a request of a disk, a frame to send, or room to receive."""
    gva = DIRECT_MAP + (ring.gfn << PAGE_SHIFT) + QUEUE * queue
    iova = ring.iova + QUEUE * queue
    data = ring.iova + PAGE_SIZE

    def put(offset: int, value: int, size: int = 8) -> None:
        context.append(Op(store, ring.actor, (gva + offset, size, value)))

    if ring.device == VIRTIO_BLK:
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
    # Flags, index and the first element; chains all begin at descriptor 0, as do the elements not written.
    put(DRIVER, (index if context.chance(0.95) else context.below(1 << 16)) << 16)


def _broken(context: Context, descriptor: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The descriptor with one thing wrong."""
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
