"""A device reads the entry of the available ring before the index that says whether the driver has filled it."""

from triggers.virtio_driver import FLUSH, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug


def replacement(self):
    registers, base = self.registers, self.base
    ring, position = registers[base + 2], registers[base + 5]
    head = int.from_bytes(self.device.read(ring + 4 + 2 * (position % self.size), 2), "little")
    if int.from_bytes(self.device.read(ring + 2, 2), "little") == position:
        return None
    registers[base + 5] = position + 1 & 0xFFFF
    return self._chain(head)


BUG = Bug(
    name="available-entry-before-index",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue.pop",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), block_request(FLUSH), NOTIFY),
)
