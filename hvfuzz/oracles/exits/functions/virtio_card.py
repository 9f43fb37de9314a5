"""Second model of the virtio network device (VIRTIO 1.2, 5.1): a card that receives what it sends."""

from __future__ import annotations

from typing import Final

from hvfuzz.oracles.exits.functions.second_function import Bus, Steps
from hvfuzz.oracles.exits.functions.virtio_transport import VirtioFunction
from hvfuzz.oracles.exits.functions.virtqueues import ENABLED, RETURNED, SIZE, Queue, Violation, fetch, fill

NETWORK: Final = 1
"""Device id (5)."""
F_MAC, F_STATUS = 1 << 5, 1 << 16
ADDRESS: Final = bytes.fromhex("525400123456")
LINK_UP: Final = 1
CONFIGURATION: Final = int.from_bytes(ADDRESS + LINK_UP.to_bytes(2, "little"), "little")
"""`mac` and `status` (5.1.4)."""
RECEIVEQ, TRANSMITQ = 0, 1
HEADER: Final = 12
"""Bytes of struct virtio_net_hdr, of which the last two are num_buffers (5.1.6)."""
ONE_BUFFER: Final = bytes(10) + b"\1\0"
LONGEST: Final = 1514
"""Bytes of an Ethernet frame without its check sum."""


class Card(VirtioFunction):
    """A card with a receive and a transmit queue; a frame without a buffer that can take it is dropped."""

    kind = "virtio network device"

    def __init__(self, bus: Bus, bdf: int, name: str) -> None:
        super().__init__(bus, bdf, name, NETWORK, F_MAC | F_STATUS, 2, CONFIGURATION)

    def serve(self, queue: Queue) -> Steps[None]:
        """Send the available frames, at most as many as the queue has descriptors; no frame waits to be received."""
        if queue.number != TRANSMITQ:
            return
        receive = self.queues[RECEIVEQ]
        before, received = queue[RETURNED], receive[RETURNED]
        for _ in range(queue[SIZE]):
            chain = yield from queue.take()
            if chain is None:
                break
            size = chain.to_read - HEADER
            if size < 0:
                raise Violation
            if size <= LONGEST:
                frame = yield from fetch(self, chain.readable, HEADER, size, "frame to send")
                yield from self._receive(receive, frame)
            yield from queue.give_back(chain.head, 0)
        wanted = yield from queue.interrupts(before)
        if receive[ENABLED]:
            wanted |= yield from receive.interrupts(received)
        if wanted:
            self.interrupt()

    def _receive(self, queue: Queue, frame: bytes) -> Steps[None]:
        """Fill the next receive buffer (5.1.6.4)."""
        chain = (yield from queue.take()) if queue[ENABLED] else None
        if chain is None:
            return
        packet = ONE_BUFFER + frame
        if chain.to_write < len(packet):
            queue.untake()
            return
        yield from fill(self, chain.writable, 0, packet, f"received packet of {len(packet)} bytes")
        yield from queue.give_back(chain.head, len(packet))
