"""A virtio block device (VIRTIO 1.2, 5.2) with a small disk in its internal memory."""

from struct import Struct
from typing import Final

from hvfuzz.machine.devices.pci_function import Bus
from hvfuzz.machine.devices.virtio.transport import VirtioDevice
from hvfuzz.machine.devices.virtio.virtqueue import NEXT_USED, Chain, Malformed, length

DEVICE_ID: Final = 2
SECTOR: Final = 512
SECTORS: Final = 16
REQUEST: Final = Struct("<IIQ")
"""Header of a request: type, reserved, sector (5.2.6)."""
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
    """One request queue. The disk is `private`, and survives a reset by the driver."""

    __slots__ = ()

    def __init__(self, machine: Bus, bdf: int, name: str) -> None:
        super().__init__(machine, bdf, name, kind=DEVICE_ID, features=F_FLUSH, queues=1, config=(SECTORS,))
        self.private[:] = bytes(SECTORS * SECTOR)

    def serve(self, number: int) -> None:
        """Answer the available requests, at most as many as the queue has descriptors."""
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
        """Perform one request, however it is divided into buffers (2.7.4); return the number of leading bytes written.

        The header is the first 16 readable bytes, the status is the last writable byte (5.2.6). Data of a request that
        the disk refuses is not read, so that a buffer is never longer than the disk.
        """
        readable, room = length(chain.readable), length(chain.writable) - len(OK)
        if readable < REQUEST.size or room < 0:
            raise Malformed("no room for the header of a request, or for its status")
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
    """Whether the `size` bytes from `sector` on are whole sectors within the disk."""
    return not size % SECTOR and sector * SECTOR + size <= SECTORS * SECTOR
