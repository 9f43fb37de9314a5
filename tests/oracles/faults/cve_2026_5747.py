"""CVE-2026-5747 (Firecracker): the size of a virtqueue can be changed after the queue was enabled and checked.

Simplified: only the size stays writable, with any value of 16 bits. A size of zero makes the device divide by zero.
"""

from triggers.virtio_driver import MAP, initialise, program, register_write

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.transport import VirtioDevice
from hvfuzz.machine.devices.virtio.virtqueue import SIZE, U16

ORIGINAL = VirtioDevice._set_up


def replacement(self, queue, word, value):
    if queue.enabled and word == SIZE:
        self.registers[queue.base + word] = value & U16
    else:
        ORIGINAL(self, queue, word, value)


BUG = Bug(
    name="cve-2026-5747",
    advisory="CVE-2026-5747",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice._set_up",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger=program(MAP, initialise(), register_write("QUEUE_SIZE", 0)),
)
