"""Second model of the virtio block device (VIRTIO 1.2, 5.2): a disk of 16 sectors."""

from __future__ import annotations

from typing import Final

from hvfuzz.oracles.exits.functions.second_function import Bus, Steps
from hvfuzz.oracles.exits.functions.virtio_transport import VirtioFunction
from hvfuzz.oracles.exits.functions.virtqueues import RETURNED, SIZE, Chain, Queue, Violation, fetch, fill

BLOCK: Final = 2
"""Device id (5)."""
CAPACITY: Final = 16
SECTOR: Final = 512
F_FLUSH: Final = 1 << 9
T_IN, T_OUT, T_FLUSH, T_GET_ID = 0, 1, 4, 8
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2
HEADER: Final = 16
"""Bytes of a request before its data: type (4), reserved (4), sector (8)."""
NAME: Final = b"hvfuzz-disk" + bytes(9)
"""The 20 bytes of the serial number."""


class Disk(VirtioFunction):
    """A disk with one queue. Its contents survive a reset by the driver, and not a change of its owner."""

    kind = "virtio block device"

    def __init__(self, bus: Bus, bdf: int, name: str) -> None:
        super().__init__(bus, bdf, name, BLOCK, F_FLUSH, 1, CAPACITY, CAPACITY * SECTOR)

    def serve(self, queue: Queue) -> Steps[None]:
        """Answer the requests in order, at most as many as the queue has descriptors."""
        before = queue[RETURNED]
        for _ in range(queue[SIZE]):
            chain = yield from queue.take()
            if chain is None:
                break
            written = yield from self._answer(chain)
            yield from queue.give_back(chain.head, written)
        if (yield from queue.interrupts(before)):
            self.interrupt()

    def _answer(self, chain: Chain) -> Steps[int]:
        """Perform a request (5.2.6); returns the bytes that it has written without a gap from the first one on.

        The status is the last writable byte, and the data is what lies before it.
        """
        room, size = chain.to_write - 1, chain.to_read - HEADER
        if size < 0 or room < 0:
            raise Violation
        header = yield from fetch(self, chain.readable, 0, HEADER, "header of the request")
        kind, sector = int.from_bytes(header[:4], "little"), int.from_bytes(header[8:], "little")
        status, answer = S_OK, b""
        if kind == T_IN:
            if self._exists(sector, room):
                answer = bytes(self.private[sector * SECTOR :][:room])
            else:
                status = S_IOERR
        elif kind == T_OUT:
            if self._exists(sector, size):
                data = yield from fetch(self, chain.readable, HEADER, size, "data to write to the disk")
                self.private[sector * SECTOR : sector * SECTOR + size] = data
            else:
                status = S_IOERR
        elif kind == T_GET_ID:
            answer = NAME[:room]
        elif kind != T_FLUSH:
            status = S_UNSUPP
        yield from fill(self, chain.writable, 0, answer, f"data of the disk, {len(answer)} bytes")
        yield from fill(
            self,
            chain.writable,
            room,
            bytes([status]),
            f"status {status} of a request of type {kind} for sector {sector}",
        )
        return len(answer) + (len(answer) == room)

    @staticmethod
    def _exists(sector: int, size: int) -> bool:
        """Whether the bytes are whole sectors of the disk."""
        return size % SECTOR == 0 and sector + size // SECTOR <= CAPACITY
