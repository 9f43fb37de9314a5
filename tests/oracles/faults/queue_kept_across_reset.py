"""A reset by the driver leaves the queues as they were, enabled and at the addresses of the last driver."""

from triggers.virtio_driver import MAP, initialise, program, register_write

from hvfuzz.bugs import Bug


def replacement(self):
    self.registers[:26] = self._power_on[:26]


BUG = Bug(
    name="queue-kept-across-reset",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.restart",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger=program(MAP, initialise(), register_write("DEVICE_STATUS", 0)),
)
