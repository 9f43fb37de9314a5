"""The index of a descriptor is not compared with the size of the table."""

from triggers.virtio_driver import MAP, NOTIFY, initialise, make_available, program

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.virtqueue import DESCRIPTOR, Chain


def replacement(self, head):
    table = self.registers[self.base + 1]
    address, size, _, _ = DESCRIPTOR.unpack(self.device.read(table + 16 * head, 16))
    return Chain(head, ((address, size),), ())


BUG = Bug(
    name="virtio-index-unchecked",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue._chain",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), make_available(0x80, 0), NOTIFY),
)
