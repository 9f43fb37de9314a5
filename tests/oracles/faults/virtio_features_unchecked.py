"""FEATURES_OK is set whatever features the driver asks for."""

from hvfuzz.bugs import Bug


def replacement(self, value):
    self.registers[0x88 >> 3] = value


BUG = Bug(
    name="virtio-features-unchecked",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice._set_status",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger="""\
# hvp 1
world virtio
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=3)
mmio_write(dom1, device=2, register=DRIVER_FEATURES, size=8, value=0)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xb)
mmio_write(dom1, device=2, register=QUEUE_DESC, size=8, value=0x40000)
mmio_write(dom1, device=2, register=QUEUE_DRIVER, size=8, value=0x40100)
mmio_write(dom1, device=2, register=QUEUE_DEVICE, size=8, value=0x40200)
mmio_write(dom1, device=2, register=QUEUE_ENABLE, size=8, value=1)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xf)
""",
)
