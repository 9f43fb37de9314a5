"""The used index moves on before the element is written, so the driver may read an old element."""

from triggers.virtio_driver import FLUSH, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug


def replacement(self, chain, written):
    registers, base = self.registers, self.base
    ring, position = registers[base + 3], registers[base + 6]
    registers[base + 6] = position + 1 & 0xFFFF
    self.device.write(ring + 2, registers[base + 6].to_bytes(2, "little"))
    element = chain.head.to_bytes(4, "little") + written.to_bytes(4, "little")
    self.device.write(ring + 4 + 8 * (position % self.size), element)


BUG = Bug(
    name="used-index-first",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue.push",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), block_request(FLUSH), NOTIFY),
)
