"""A device writes all of its answer to the first buffer, however short that is."""

from triggers.virtio_driver import DEVICE_WRITES, IN, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug


def replacement(self, segments, offset, data):
    for iova, length in segments:
        if offset < length and data:
            self.write(iova + offset, data)
            return
        offset -= min(offset, length)


BUG = Bug(
    name="virtio-buffer-overrun",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.scatter",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(
        MAP, initialise(), block_request(IN, (0x41000, 0x100, DEVICE_WRITES), status=(0x42000, 0x101)), NOTIFY
    ),
)
