"""The log of written pages has a byte for each page, and so ends far beyond what the driver has set aside for it."""

from triggers.virtio_driver import (
    FLUSH,
    LOG_ALL,
    MAP,
    NOTIFY,
    VERSION_1,
    block_request,
    initialise,
    program,
    register_write,
)

from hvfuzz.bugs import Bug


def replacement(self, page):
    byte = self.registers[0xA8 >> 3] + page
    before = self.dma_read(byte, 1)[0]
    self.dma_write(byte, bytes((before | 1,)))


BUG = Bug(
    name="virtio-log-astray",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice._log",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(
        MAP,
        initialise(VERSION_1 | LOG_ALL),
        register_write("LOG_BASE", 0x43000),
        block_request(FLUSH),
        NOTIFY,
    ),
)
