"""A disk says that it has done what it does not know."""

from triggers.virtio_driver import MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.transport import VirtioDevice

ORIGINAL = VirtioDevice.scatter


def replacement(self, segments, offset, data):
    ORIGINAL(self, segments, offset, b"\0" if data in (b"\1", b"\2") else data)


BUG = Bug(
    name="disk-status-always-ok",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.scatter",
    replacement=replacement,
    findings=("exits/answer/mmio_write",),
    trigger=program(MAP, initialise(), block_request(77), NOTIFY),
)
