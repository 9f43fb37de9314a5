"""Second model of split virtqueues: in which order a device reads and writes the rings (VIRTIO 1.2, 2.7).

A device reads each word of a ring and each descriptor once, when it needs it: the driver may change them at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from hvfuzz.machine.addresses import U64
from hvfuzz.oracles.exits.functions.second_function import Steps

MOST: Final = 16
"""Size of a queue after a reset."""
SIZE, DESCRIPTORS, AVAILABLE, USED, ENABLED, TAKEN, RETURNED, WORDS = range(8)
"""Words of a queue: its size; the device addresses of its three parts; whether it is enabled; how many chains were
taken from the available ring and returned by the used ring, modulo 2^16."""
F_NEXT, F_WRITE, F_INDIRECT = 1, 2, 4
"""Flags of a descriptor (2.7.5)."""
NO_INTERRUPT: Final = 1
"""Flag of the available ring (2.7.6)."""
ENTRY: Final = 16
"""Bytes of a descriptor: address (8), length (4), flags (2), next (2)."""
MODULUS: Final = 1 << 16

Buffer = tuple[int, int]
"""(device address, bytes)"""


class Violation(Exception):
    """The driver has broken a rule of the ring, so the device needs a reset (2.1.2)."""


class Chain(NamedTuple):
    """An available chain: its first descriptor, and its buffers."""

    head: int
    readable: list[Buffer]
    writable: list[Buffer]

    @property
    def to_read(self) -> int:
        """Bytes that the device may read."""
        return sum(size for _, size in self.readable)

    @property
    def to_write(self) -> int:
        """Bytes that the device may write."""
        return sum(size for _, size in self.writable)


def part(buffers: Iterable[Buffer], start: int, size: int) -> Iterator[Buffer]:
    """The places of bytes `start` to `start + size` of some buffers, as far as they go."""
    first = 0
    for iova, length in buffers:
        low, high = max(start, first), min(start + size, first + length)
        if low < high:
            yield iova + low - first, high - low
        first += length


class Owner(Protocol):
    """What a queue needs of its function: the register file, negotiated features, and memory."""

    registers: list[int]

    @property
    def has_event_index(self) -> bool:
        """Whether EVENT_IDX is negotiated."""

    @property
    def has_indirect(self) -> bool:
        """Whether indirect descriptors are negotiated."""

    def get(self, iova: int, size: int, what: str) -> Steps[bytes]: ...

    def put(self, iova: int, data: bytes, what: str) -> Steps[None]: ...


class Queue:
    """Queue `number` of a function; its words are part of the register file."""

    __slots__ = ("_at", "_function", "number")

    def __init__(self, function: Owner, number: int, at: int) -> None:
        self._function: Final = function
        self._at: Final = at
        self.number: Final = number

    def __getitem__(self, word: int) -> int:
        return self._function.registers[self._at + word]

    def __setitem__(self, word: int, value: int) -> None:
        self._function.registers[self._at + word] = value

    def take(self) -> Steps[Chain | None]:
        """Take the next available chain, if there is one (2.7.13). Raises Violation, Blocked."""
        taken, size = self[TAKEN], self[SIZE]
        index = yield from self._word(self[AVAILABLE] + 2, "available index")
        waiting = (index - taken) % MODULUS
        if waiting > size:
            raise Violation
        if not waiting:
            return None
        head = yield from self._word(self[AVAILABLE] + 4 + 2 * (taken % size), "available entry")
        self[TAKEN] = (taken + 1) % MODULUS
        return (yield from self._chain(head))

    def untake(self) -> None:
        """Leave the chain that was taken last to the next `take`."""
        self[TAKEN] = (self[TAKEN] - 1) % MODULUS

    def give_back(self, head: int, written: int) -> Steps[None]:
        """Return a chain: the element of the used ring, and then the index, which makes it visible (2.7.8.2)."""
        element = head.to_bytes(4, "little") + written.to_bytes(4, "little")
        place = self[USED] + 4 + 8 * (self[RETURNED] % self[SIZE])
        what = f"used element of queue {self.number} (head {head}, {written} bytes)"
        yield from self._function.put(place, element, what)
        self[RETURNED] = (self[RETURNED] + 1) % MODULUS
        index = self[RETURNED]
        yield from self._function.put(self[USED] + 2, index.to_bytes(2, "little"), f"used index {index}")

    def interrupts(self, before: int) -> Steps[bool]:
        """Whether the driver wants to hear that the used index has moved from `before` (2.7.7, 2.7.10)."""
        now, size = self[RETURNED], self[SIZE]
        if not self._function.has_event_index:
            if now == before:
                return False
            flags = yield from self._word(self[AVAILABLE], "available flags")
            return not flags & NO_INTERRUPT
        event = self[TAKEN].to_bytes(2, "little")
        yield from self._function.put(self[USED] + 4 + 8 * size, event, "avail_event")
        wanted = yield from self._word(self[AVAILABLE] + 4 + 2 * size, "used_event")
        # vring_need_event of 2.7.10: `wanted` is among the indices from `before` to `now - 1`.
        return (now - wanted - 1) % MODULUS < (now - before) % MODULUS

    def _word(self, iova: int, what: str) -> Steps[int]:
        data = yield from self._function.get(iova, 2, f"{what} of queue {self.number}")
        return int.from_bytes(data, "little")

    def _chain(self, head: int) -> Steps[Chain]:
        """Read the descriptors of a chain (2.7.5), of which the last may be an indirect table (2.7.5.3)."""
        chain = Chain(head, [], [])
        place, entries, number, name = self[DESCRIPTORS], self[SIZE], head, "descriptor"
        buffers = 0
        while number < entries:
            what = f"{name} {number} of queue {self.number}"
            data = yield from self._function.get(place + ENTRY * number, ENTRY, what)
            iova, size = int.from_bytes(data[:8], "little"), int.from_bytes(data[8:12], "little")
            flags, following = int.from_bytes(data[12:14], "little"), int.from_bytes(data[14:], "little")
            if flags & F_INDIRECT:
                nested = name != "descriptor"
                if nested or flags & F_NEXT or not self._function.has_indirect:
                    raise Violation
                if not size or size % ENTRY or size > ENTRY * self[SIZE]:
                    raise Violation
                place, entries, number, name = iova, size // ENTRY, 0, "indirect descriptor"
                continue
            buffers += 1
            if buffers > self[SIZE] or not size or iova + size > U64 + 1:
                raise Violation
            if flags & F_WRITE:
                chain.writable.append((iova, size))
            elif chain.writable:
                raise Violation  # All readable buffers come first (2.7.4.2).
            else:
                chain.readable.append((iova, size))
            if not flags & F_NEXT:
                return chain
            number = following
        raise Violation


def fetch(function: Owner, buffers: Iterable[Buffer], start: int, size: int, what: str) -> Steps[bytes]:
    """Read bytes `start` to `start + size` of some buffers. Raises Blocked."""
    data = b""
    for iova, length in part(buffers, start, size):
        data += yield from function.get(iova, length, what)
    return data


def fill(function: Owner, buffers: Iterable[Buffer], start: int, data: bytes, what: str) -> Steps[None]:
    """Write `data` to some buffers, from byte `start` on, as far as they go. Raises Blocked."""
    done = 0
    for iova, length in part(buffers, start, len(data)):
        yield from function.put(iova, data[done : done + length], what)
        done += length
