"""The index of a descriptor is not compared with the size of the table."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.virtqueue import DESCRIPTOR, Chain


def replacement(self, head):
    table = self.registers[self.base + 1]
    address, size, _, _ = DESCRIPTOR.unpack(self.device.read(table + 16 * head, 16))
    return Chain(head, ((address, size),), ())


BUG = Bug(
    name="virtio-index-unchecked",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue._chain",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger="""\
# hvp 1
world virtio
device.dma_map(dom1, iova=0x40000, gfn=0x40, count=4, rights=R|W)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=3)
mmio_write(dom1, device=2, register=DRIVER_FEATURES, size=8, value=0x110000000)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xb)
mmio_write(dom1, device=2, register=QUEUE_DESC, size=8, value=0x40000)
mmio_write(dom1, device=2, register=QUEUE_DRIVER, size=8, value=0x40100)
mmio_write(dom1, device=2, register=QUEUE_DEVICE, size=8, value=0x40200)
mmio_write(dom1, device=2, register=QUEUE_ENABLE, size=8, value=1)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xf)
store(dom1, gva=DIRECT+0x40104, size=2, value=0x80)
store(dom1, gva=DIRECT+0x40102, size=2, value=1)
mmio_write(dom1, device=2, register=NOTIFY, size=8, value=0)
""",
)
