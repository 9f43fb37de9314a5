"""A buffer that the driver gives to be read is written."""

from triggers.virtio_driver import IN, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.virtqueue import Virtqueue

chain_of = Virtqueue._chain


def replacement(self, head):
    chain = chain_of(self, head)
    return chain._replace(writable=chain.readable[1:] + chain.writable)


BUG = Bug(
    name="virtio-direction-ignored",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue._chain",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), block_request(IN, (0x41000, 0x200, 0)), NOTIFY),
)
