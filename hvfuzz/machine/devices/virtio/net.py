"""A virtio network device (VIRTIO 1.2, 5.1) in loopback: it receives the frames that it sends."""

from struct import Struct
from typing import Final

from hvfuzz.machine.devices.pci_function import Bus
from hvfuzz.machine.devices.virtio.transport import VirtioDevice
from hvfuzz.machine.devices.virtio.virtqueue import NEXT_USED, Malformed, length

DEVICE_ID: Final = 1
RECEIVE: Final = 0
TRANSMIT: Final = 1
HEADER: Final = Struct("<BBHHHHH")
"""struct virtio_net_hdr with num_buffers, the last (5.1.6)."""
RECEIVED: Final = HEADER.pack(0, 0, 0, 0, 0, 0, 1)
"""No offload, one buffer."""
MAX_FRAME: Final = 1514
"""Bytes of the longest Ethernet frame, without its checksum."""
F_MAC: Final = 1 << 5
F_STATUS: Final = 1 << 16
LINK_UP: Final = 1
MAC: Final = bytes((0x52, 0x54, 0, 0x12, 0x34, 0x56))
CONFIG: Final = int.from_bytes(MAC, "little") | LINK_UP << 48
"""mac and status (5.1.4)."""


class VirtioNet(VirtioDevice):
    """A receive queue and a transmit queue. A frame is dropped if no receive buffer is available."""

    __slots__ = ()

    def __init__(self, machine: Bus, bdf: int, name: str) -> None:
        super().__init__(machine, bdf, name, kind=DEVICE_ID, features=F_MAC | F_STATUS, queues=2, config=(CONFIG,))

    def serve(self, number: int) -> None:
        """Send the available frames, at most as many as the queue has descriptors.

        A notification of the receive queue has no effect, since no frame waits for buffers.
        """
        if number != TRANSMIT:
            return
        queue, other = self.queues[TRANSMIT], self.queues[RECEIVE]
        before, received = self.registers[queue.base + NEXT_USED], self.registers[other.base + NEXT_USED]
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                break
            size = length(chain.readable)
            if size < HEADER.size:
                raise Malformed("no room for the header of a frame")
            if size - HEADER.size <= MAX_FRAME:
                self._receive(self.gather(chain.readable, HEADER.size, size - HEADER.size))
            queue.push(chain, 0)
        if queue.wants_interrupt(before) | (other.enabled and other.wants_interrupt(received)):
            self.raise_interrupt()

    def _receive(self, frame: bytes) -> None:
        """Put a frame into the next receive buffer, if it fits (5.1.6.4)."""
        queue = self.queues[RECEIVE]
        chain = queue.pop() if queue.enabled else None
        if chain is None:
            return
        packet = RECEIVED + frame
        if length(chain.writable) < len(packet):
            queue.put_back()
            return
        self.scatter(chain.writable, 0, packet)
        queue.push(chain, len(packet))
