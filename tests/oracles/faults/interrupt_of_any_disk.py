"""The interrupt status of a device also shows that of the other virtio devices, which other domains have."""

from triggers.virtio_driver import FLUSH, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.register_map import Register
from hvfuzz.machine.devices.virtio.transport import VirtioDevice

ORIGINAL = VirtioDevice.read_register


def replacement(self, register):
    if register == Register.ISR:
        return self.machine.devices[2].registers[Register.ISR >> 3] | self.registers[Register.ISR >> 3]
    return ORIGINAL(self, register)


BUG = Bug(
    name="interrupt-of-any-disk",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.read_register",
    replacement=replacement,
    findings=("exits/registers/mmio_read",),
    trigger=program(MAP, initialise(), block_request(FLUSH), NOTIFY, "mmio_read(dom2, device=3, register=ISR, size=8)"),
)
