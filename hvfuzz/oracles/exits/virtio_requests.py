"""Second model of the virtio transport, from VIRTIO 1.2, not from the device under test.

After a write to a configuration register, it gives the expected value of all registers. For a notification, it gives
the bytes that the queues name at that moment: the device may access only these, each in its direction. Helper of the
oracle `exits`; reports nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, SIZE_MASK, U64, WRITE
from hvfuzz.machine.devices.pci_function import ACCESS_SIZES
from hvfuzz.machine.devices.virtio.register_map import WINDOW_WORDS, Register
from hvfuzz.machine.devices.virtio.virtqueue import QUEUE_WORDS
from hvfuzz.oracles.shadow.changes import DMA

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

DESCRIPTOR: Final = Struct("<QIHH")
F_NEXT: Final = 1
F_WRITE: Final = 2
F_INDIRECT: Final = 4
LOG_ALL: Final = 26
VERSION_1: Final = 32
SIZES: Final = (1, 2, 4, 8, 16)
"""Valid queue sizes."""
DRIVER_OK: Final = 4
FEATURES_OK: Final = 8
NEEDS_RESET: Final = 64
SETTABLE: Final = 0x8F
"""Bits of the device status that a driver can set (VIRTIO 1.2, 2.1)."""
SELECTED: Final = range(Register.QUEUE_SIZE >> 3, (Register.QUEUE_ENABLE >> 3) + 1)
"""Register words that alias a word of the selected queue."""
SIZE, DESC, DRIVER, DEVICE, ENABLE, NEXT_AVAILABLE, NEXT_USED = range(QUEUE_WORDS)
MOVING: Final = (Register.ERROR >> 3, Register.DEVICE_STATUS >> 3, Register.ISR >> 3, Register.GENERATION >> 3)
"""Register words that a notification may change, besides the two indices of each queue."""

Range = tuple[int, int]
"""(first byte, byte after the last)"""


def written(before: list[int], power_on: list[int], offset: int, width: int, value: int) -> list[int | None]:
    """Expected registers after a write of the low `width` bytes of `value` at `offset`; None: any value."""
    after: list[int | None] = list(before)
    word = offset >> 3
    if width not in ACCESS_SIZES or offset & width - 1 or word >= WINDOW_WORDS:
        return after
    queue = WINDOW_WORDS + before[Register.QUEUE_SELECT >> 3] * QUEUE_WORDS
    place = queue + word - SELECTED.start if word in SELECTED else word
    if place >= len(before):
        return after  # no such queue
    shift, mask = (offset & 7) << 3, SIZE_MASK[width]
    value = before[place] & ~(mask << shift) | (value & mask) << shift
    register = word << 3
    status = before[Register.DEVICE_STATUS >> 3]
    if register == Register.NOTIFY:
        for moving in MOVING:
            after[moving] = None
        for first in range(WINDOW_WORDS, len(before), QUEUE_WORDS):
            after[first + NEXT_AVAILABLE] = after[first + NEXT_USED] = None
    elif register == Register.DEVICE_STATUS:
        if not value:
            return list(power_on)
        features, offered = before[Register.DRIVER_FEATURES >> 3], before[Register.DEVICE_FEATURES >> 3]
        asked = value & FEATURES_OK and features >> VERSION_1 & 1 and not features & ~offered
        agreed = FEATURES_OK if asked or status & FEATURES_OK else 0
        up = value & DRIVER_OK if agreed else 0
        after[place] = value & SETTABLE & ~(FEATURES_OK | DRIVER_OK) | agreed | up | status & NEEDS_RESET
    elif register == Register.DRIVER_FEATURES:
        after[place] = before[place] if status & FEATURES_OK else value
    elif register == Register.QUEUE_SELECT:
        after[place] = value & 0xFFFF
    elif register == Register.LOG_BASE:
        after[place] = value
    elif register == Register.ACK:
        after[Register.ISR >> 3] = before[Register.ISR >> 3] & ~value
    elif word in SELECTED and not before[queue + ENABLE]:
        fits = value in SIZES if place == queue + SIZE else True
        ready = value == 1 and status & FEATURES_OK if place == queue + ENABLE else True
        if fits and ready:
            after[place] = value
    return after


class Scope:
    """The ranges of device addresses that the queues of a notified device name, to read and to write.

    If the device overwrites its own rings or descriptors, the requests are unknown: every later access is allowed.
    """

    __slots__ = ("_load", "_orders", "_readable", "_shadow", "_size", "_space", "_writable")

    def __init__(self, scene: Scene, shadow: PageTableShadow, domain: int, registers: list[int]) -> None:
        self._shadow = shadow
        self._space = domain | DMA
        self._load: Callable[[int, int], bytes] = scene.machine.memory.read
        self._size: int = scene.machine.memory.size
        self._readable: list[Range] = []
        self._writable: list[Range] = []
        self._orders: list[Range] | None = []
        """Host physical ranges of descriptors and rings; None once the device has overwritten one."""
        for first in range(WINDOW_WORDS, len(registers), QUEUE_WORDS):
            if registers[first + ENABLE]:
                self._add_queue(registers[first : first + QUEUE_WORDS])
        if registers[Register.DRIVER_FEATURES >> 3] >> LOG_ALL & 1:
            log = registers[Register.LOG_BASE >> 3]
            for begin, end in self._writable.copy():
                logged = log + (begin >> PAGE_SHIFT + 3), log + (end - 1 >> PAGE_SHIFT + 3) + 1
                self._readable.append(logged)
                self._writable.append(logged)

    def allows(self, hpa: int, size: int, access: int) -> bool:
        """Whether the device may access these bytes now."""
        orders = self._orders
        if orders is None:
            return True
        ranges = self._writable if access & WRITE else self._readable
        allowed = any(
            begin <= iova + turn and iova + turn + size <= end
            for iova in self._names(hpa)
            for begin, end in ranges
            for turn in (0, U64 + 1)  # addresses wrap modulo 2^64
        )
        if access & WRITE and any(hpa < end and begin < hpa + size for begin, end in orders):
            self._orders = None
        return allowed

    def _names(self, hpa: int) -> list[int]:
        """The device addresses that map to host physical address `hpa`."""
        found = []
        for word in self._shadow.leaves.get(hpa >> PAGE_SHIFT, ()):
            leaf = self._shadow.leaf(word)
            if leaf is not None and leaf.space == self._space:
                found.append(leaf.page << PAGE_SHIFT | hpa & PAGE_MASK)
        return found

    def _read(self, iova: int, size: int) -> bytes | None:
        """Read a part of a ring or a descriptor, and record its place; None if the device cannot read it."""
        data = b""
        while len(data) < size:
            at = iova + len(data) & U64
            leaf = self._shadow.find(self._space, at >> PAGE_SHIFT)
            piece = min(size - len(data), PAGE_SIZE - (at & PAGE_MASK))
            if leaf is None or not leaf.rights & READ:
                return None
            hpa = leaf.frame << PAGE_SHIFT | at & PAGE_MASK
            if hpa >= self._size:
                self._orders = None  # In the registers of a device: the value that a read returns is unknown.
                return None
            data += self._load(hpa, piece)
            if self._orders is not None:
                self._orders.append((hpa, hpa + piece))
        return data

    def _add_queue(self, queue: list[int]) -> None:
        """Add the three parts of a queue, and its available buffers (VIRTIO 1.2, 2.7)."""
        size, available, used = queue[SIZE], queue[DRIVER], queue[DEVICE]
        self._readable += [(queue[DESC], queue[DESC] + 16 * size), (available, available + 6 + 2 * size)]
        self._writable.append((used, used + 6 + 8 * size))
        index = self._read(available + 2, 2)
        if index is None:
            return
        position = queue[NEXT_AVAILABLE]
        for step in range(min(int.from_bytes(index, "little") - position & 0xFFFF, size)):
            head = self._read(available + 4 + 2 * ((position + step) % size), 2)
            if head is not None:
                self._add_chain(queue[DESC], size, int.from_bytes(head, "little"), size)

    def _add_chain(self, table: int, entries: int, index: int, indirect: int) -> None:
        """Add the buffers of a chain in a table of `entries` entries (VIRTIO 1.2, 2.7.5).

        An indirect table may have at most `indirect` entries (2.7.5.3).
        """
        for _ in range(entries):
            data = self._read(table + 16 * index, 16) if index < entries else None
            if data is None:
                return
            address, length, flags, index = DESCRIPTOR.unpack(data)
            if flags & F_INDIRECT:
                self._readable.append((address, address + length))
                if length // 16 <= indirect:
                    self._add_chain(address, length // 16, 0, 0)
                return
            (self._writable if flags & F_WRITE else self._readable).append((address, address + length))
            if not flags & F_NEXT:
                return
