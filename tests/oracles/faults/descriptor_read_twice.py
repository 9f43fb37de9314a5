"""A device checks a descriptor, and takes the buffer from a second read of it (FreeBSD-SA-24:17.bhyve)."""

from triggers.virtio_driver import FLUSH, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.virtqueue import Virtqueue

ORIGINAL = Virtqueue._chain


def replacement(self, head):
    ORIGINAL(self, head)
    return ORIGINAL(self, head)


BUG = Bug(
    name="descriptor-read-twice",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue._chain",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), block_request(FLUSH), NOTIFY),
)
