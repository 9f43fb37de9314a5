"""A virtio block device (VIRTIO 1.2, 5.2) with a small disk in memory of its own."""

from struct import Struct
from typing import Final

from hvfuzz.machine.devices.pci_function import Bus
from hvfuzz.machine.devices.virtio.transport import VirtioDevice
from hvfuzz.machine.devices.virtio.virtqueue import NEXT_USED, Chain, Malformed, length

DEVICE_ID: Final = 2
SECTOR: Final = 512
SECTORS: Final = 16
REQUEST: Final = Struct("<IIQ")
"""Head of a request: type, reserved, sector (5.2.6)."""
IN: Final = 0
OUT: Final = 1
FLUSH: Final = 4
GET_ID: Final = 8
OK: Final = b"\0"
IOERR: Final = b"\1"
UNSUPPORTED: Final = b"\2"
F_FLUSH: Final = 1 << 9
SERIAL: Final = b"hvfuzz-disk".ljust(20, b"\0")


class VirtioBlk(VirtioDevice):
    """One queue of requests; the disk is `private`, and survives what a driver resets."""

    __slots__ = ()

    def __init__(self, machine: Bus, bdf: int, name: str) -> None:
        super().__init__(machine, bdf, name, kind=DEVICE_ID, features=F_FLUSH, queues=1, config=(SECTORS,))
        self.private[:] = bytes(SECTORS * SECTOR)

    def serve(self, number: int) -> None:
        """Answer what is available, at most as many requests as the queue has descriptors."""
        queue = self.queues[number]
        before = self.registers[queue.base + NEXT_USED]
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                break
            queue.push(chain, self._answer(chain))
        if queue.wants_interrupt(before):
            self.raise_interrupt()

    def _answer(self, chain: Chain) -> int:
        """Carry out one request, however it is cut into buffers (2.7.4); bytes written, from the first on.

        The head is the first 16 readable bytes, the status the last writable one. What the disk refuses is not
        looked at, so that a buffer is never longer than the disk.
        """
        readable, room = length(chain.readable), length(chain.writable) - len(OK)
        if readable < REQUEST.size or room < 0:
            raise Malformed("no room for the head of a request, or for its status")
        kind, _, sector = REQUEST.unpack(self.gather(chain.readable, 0, REQUEST.size))
        status, written = OK, 0
        if kind == IN:
            if on_disk(sector, room):
                written = room
                self.scatter(chain.writable, 0, bytes(self.private[sector * SECTOR : sector * SECTOR + room]))
            else:
                status = IOERR
        elif kind == OUT:
            size = readable - REQUEST.size
            if on_disk(sector, size):
                data = self.gather(chain.readable, REQUEST.size, size)
                self.private[sector * SECTOR : sector * SECTOR + size] = data
            else:
                status = IOERR
        elif kind == GET_ID:
            written = min(room, len(SERIAL))
            self.scatter(chain.writable, 0, SERIAL[:written])
        elif kind != FLUSH:
            status = UNSUPPORTED
        self.scatter(chain.writable, room, status)
        return written + len(status) if written == room else written


def on_disk(sector: int, size: int) -> bool:
    """Whether `size` bytes from `sector` on are whole sectors of the disk."""
    return not size % SECTOR and sector * SECTOR + size <= SECTORS * SECTOR
