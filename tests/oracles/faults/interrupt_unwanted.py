"""A device raises interrupts that the driver has suppressed, without a look at the flags of the available ring."""

from triggers.virtio_driver import AVAILABLE, FLUSH, MAP, NOTIFY, block_request, initialise, program, store

from hvfuzz.bugs import Bug


def replacement(self, before):
    return self.registers[self.base + 6] != before


BUG = Bug(
    name="interrupt-unwanted",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue.wants_interrupt",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), block_request(FLUSH), store(AVAILABLE, 1, 2), NOTIFY),
)
