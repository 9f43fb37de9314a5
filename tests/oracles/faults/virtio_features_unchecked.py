"""FEATURES_OK is set whatever features the driver asks for."""

from triggers.virtio_driver import initialise, program

from hvfuzz.bugs import Bug


def replacement(self, value):
    self.registers[0x88 >> 3] = value


BUG = Bug(
    name="virtio-features-unchecked",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice._set_status",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger=program(initialise(features=0)),
)
