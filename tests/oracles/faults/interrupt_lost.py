"""A device forgets to raise the interrupt that the driver waits for."""

from triggers.virtio_driver import FLUSH, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug


def replacement(self):
    pass


BUG = Bug(
    name="interrupt-lost",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.raise_interrupt",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger=program(MAP, initialise(), block_request(FLUSH), NOTIFY),
)
