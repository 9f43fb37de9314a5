"""A device reads each descriptor twice, to check it and then to use it: the driver can change it in between."""

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
