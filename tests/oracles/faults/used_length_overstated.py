"""The used ring says that a whole buffer was filled, although the device has written one byte: the driver reads on."""

from triggers.virtio_driver import FLUSH, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.virtqueue import Virtqueue, length

ORIGINAL = Virtqueue.push


def replacement(self, chain, written):
    ORIGINAL(self, chain, max(written, length(chain.writable)))


BUG = Bug(
    name="used-length-overstated",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue.push",
    replacement=replacement,
    findings=("exits/answer/mmio_write",),
    trigger=program(MAP, initialise(), block_request(FLUSH, status=(0x42000, 0x100)), NOTIFY),
)
