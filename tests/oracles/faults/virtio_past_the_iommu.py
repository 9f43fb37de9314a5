"""Addresses in descriptors are taken for host addresses."""

from triggers.virtio_driver import DEVICE_WRITES, IN, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import WRITE


def replacement(self, iova, data):
    iova %= self.memory.size
    self.machine.access_observer(self, iova, len(data), WRITE)
    self.memory.write(iova, data)


BUG = Bug(
    name="virtio-past-the-iommu",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.write",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), block_request(IN, (0x41000, 0x200, DEVICE_WRITES)), NOTIFY),
)
