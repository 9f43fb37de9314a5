"""The reset of a virtio device clears its registers, but not the state of its queues.

The loop is over the words of the register window; the queues' words follow it. When the device goes to another domain,
its queue is still enabled, at the addresses of the last owner: the new owner reads these, cannot set its own (the
registers of an enabled queue are read only), and the device would serve rings at addresses that somebody else chose.

In the trigger dom1 sets up a disk's queue. The disk goes to dom2, which reads where dom1 had its rings.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.register_map import WINDOW_WORDS


def restart(self):
    """Reset the window."""
    self.registers[:WINDOW_WORDS] = self._power_on[:WINDOW_WORDS]


BUG = Bug(
    name="c04-reset-keeps-queues",
    title="a virtio device keeps its queues, enabled, over a reset and into another domain",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.restart",
    replacement=restart,
    findings=("exits/device/device.deassign",),
    story=__doc__,
    trigger="""\
# hvp 1
world virtio
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=3)
mmio_write(dom1, device=2, register=DRIVER_FEATURES, size=8, value=0x100000000)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xb)
mmio_write(dom1, device=2, register=QUEUE_DESC, size=8, value=0x40000)
mmio_write(dom1, device=2, register=QUEUE_ENABLE, size=8, value=1)
device.deassign(dom0, device=2)
device.assign(dom0, device=2, to=dom2)
mmio_read(dom2, device=2, register=QUEUE_DESC, size=8)
mmio_read(dom2, device=2, register=QUEUE_ENABLE, size=8)
""",
)
