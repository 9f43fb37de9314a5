"""Split virtqueues: rings of descriptor chains in the driver's memory, read and written by DMA.

Section numbers are those of VIRTIO 1.2. The rings are untrusted: a violation of a requirement on the driver (2.7.5.1,
2.7.5.3.1, 2.7.13) raises `Malformed`, after work bounded by the size of the queue.
"""

from struct import Struct
from typing import Final, NamedTuple, Protocol

from hvfuzz.machine.addresses import U64

DESCRIPTOR: Final = Struct("<QIHH")
"""A descriptor: address, length, flags, next (2.7.5)."""
DESCRIPTOR_SIZE: Final = 16
NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4
RING_INDEX: Final = 2
"""Offset of `idx` in either ring, after the flags (2.7.6, 2.7.8)."""
RING: Final = 4
"""Offset of the first element of a ring."""
AVAILABLE_SIZE: Final = 2
USED_ELEMENT: Final = Struct("<II")
"""An element of the used ring: head of the chain, bytes written to it."""
NO_INTERRUPT: Final = 1
"""VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.6)."""
U16: Final = 0xFFFF

# The words of a queue in the register file of its device: `base` plus one of these.
SIZE, DESC, DRIVER, DEVICE, ENABLE, NEXT_AVAILABLE, NEXT_USED = range(7)
QUEUE_WORDS: Final = 7
MAX_SIZE: Final = 16
"""Descriptors of a queue after reset; the driver can reduce the number."""

Segment = tuple[int, int]
"""(IOVA, length) of one buffer."""


class Malformed(Exception):
    """The driver violated the rules of the ring: the device needs a reset."""


class Chain(NamedTuple):
    """A descriptor chain: buffers to read, then buffers to write."""

    head: int
    readable: tuple[Segment, ...]
    writable: tuple[Segment, ...]


class QueueOwner(Protocol):
    """The parts of a virtio device that its queues use."""

    registers: list[int]

    @property
    def indirect(self) -> bool:
        """Whether indirect descriptors are negotiated."""

    @property
    def event_index(self) -> bool:
        """Whether EVENT_IDX is negotiated."""

    def read(self, iova: int, size: int) -> bytes: ...

    def write(self, iova: int, data: bytes) -> None: ...


def length(segments: tuple[Segment, ...]) -> int:
    """Total number of bytes of the buffers."""
    return sum(size for _, size in segments)


class Virtqueue:
    """One queue of `device`; its state is in the words of the device's register file from `base` on."""

    __slots__ = ("base", "device", "registers")

    def __init__(self, device: QueueOwner, base: int) -> None:
        self.device = device
        self.registers = device.registers
        self.base: int = base

    @property
    def size(self) -> int:
        """Number of descriptors in the table, and of elements in each ring: a power of two."""
        return self.registers[self.base + SIZE]

    @property
    def enabled(self) -> bool:
        """Whether the driver has enabled it."""
        return self.registers[self.base + ENABLE] != 0

    def pop(self) -> Chain | None:
        """The next available chain, or None. Raises Malformed, DmaFault."""
        registers, base, size = self.registers, self.base, self.size
        ring, position = registers[base + DRIVER], registers[base + NEXT_AVAILABLE]
        waiting = self._load(ring + RING_INDEX) - position & U16
        if waiting > size:
            raise Malformed("more chains are available than the queue has descriptors")
        if not waiting:
            return None
        head = self._load(ring + RING + AVAILABLE_SIZE * (position % size))
        registers[base + NEXT_AVAILABLE] = position + 1 & U16
        return self._chain(head)

    def put_back(self) -> None:
        """Return the chain that was popped last, unused; the next `pop` gives it again."""
        at = self.base + NEXT_AVAILABLE
        self.registers[at] = self.registers[at] - 1 & U16

    def push(self, chain: Chain, written: int) -> None:
        """Return a used chain to the driver, with `written` bytes filled from its start (2.7.8). Raises DmaFault."""
        registers, base = self.registers, self.base
        ring, position = registers[base + DEVICE], registers[base + NEXT_USED]
        write = self.device.write
        write(ring + RING + USED_ELEMENT.size * (position % self.size), USED_ELEMENT.pack(chain.head, written))
        # The index is written last, since the driver may read the element as soon as it changes (2.7.8.2).
        registers[base + NEXT_USED] = position = position + 1 & U16
        write(ring + RING_INDEX, position.to_bytes(2, "little"))

    def wants_interrupt(self, before: int) -> bool:
        """Whether the driver wants an interrupt for the used index having moved on from `before` (2.7.7, 2.7.10).

        With EVENT_IDX, also tells the driver which available chain it should next notify. Raises DmaFault.
        """
        registers, base, size = self.registers, self.base, self.size
        ring, position = registers[base + DRIVER], registers[base + NEXT_USED]
        if not self.device.event_index:
            return position != before and not self._load(ring) & NO_INTERRUPT
        event = registers[base + DEVICE] + RING + USED_ELEMENT.size * size
        self.device.write(event, registers[base + NEXT_AVAILABLE].to_bytes(2, "little"))
        used_event = self._load(ring + RING + AVAILABLE_SIZE * size)
        return (position - used_event - 1 & U16) < (position - before & U16)

    def _load(self, iova: int) -> int:
        return int.from_bytes(self.device.read(iova, 2), "little")

    def _chain(self, head: int) -> Chain:
        """Follow a chain, and the indirect table that may end it (2.7.5, 2.7.5.3). Raises Malformed, DmaFault."""
        readable: list[Segment] = []
        writable: list[Segment] = []
        table, entries = self.registers[self.base + DESC], self.size
        index, left, nested = head, self.size, False
        while True:
            if index >= entries:
                raise Malformed(f"descriptor {index} of {entries}")
            address, size, flags, following = DESCRIPTOR.unpack(
                self.device.read(table + DESCRIPTOR_SIZE * index, DESCRIPTOR_SIZE)
            )
            if flags & INDIRECT:
                if nested or flags & NEXT or not self.device.indirect:
                    raise Malformed("an indirect descriptor where none is allowed")
                if not size or size % DESCRIPTOR_SIZE or size // DESCRIPTOR_SIZE > self.size:
                    raise Malformed(f"indirect table of {size} bytes")
                table, entries, index, nested = address, size // DESCRIPTOR_SIZE, 0, True
                continue
            if not left:
                raise Malformed("a chain longer than the queue, or a loop")
            left -= 1
            if not size or address + size > U64 + 1:
                raise Malformed(f"buffer of {size} bytes at {address:#x}")
            if flags & WRITE:
                writable.append((address, size))
            elif writable:
                raise Malformed("a readable buffer after a writable one")
            else:
                readable.append((address, size))
            if not flags & NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            index = following
