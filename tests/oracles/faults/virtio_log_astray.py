"""The log of written pages has a byte for each page, and so ends far beyond what the driver has set aside for it."""

from hvfuzz.bugs import Bug


def replacement(self, page):
    byte = self.registers[0xA8 >> 3] + page
    before = self.dma_read(byte, 1)[0]
    self.dma_write(byte, bytes((before | 1,)))


BUG = Bug(
    name="virtio-log-astray",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice._log",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger="""\
# hvp 1
world virtio
device.dma_map(dom1, iova=0x40000, gfn=0x40, count=4, rights=R|W)
mmio_write(dom1, device=2, register=DRIVER_FEATURES, size=8, value=0x104000000)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=11)
mmio_write(dom1, device=2, register=LOG_BASE, size=8, value=0x43000)
mmio_write(dom1, device=2, register=QUEUE_DESC, size=8, value=0x40000)
mmio_write(dom1, device=2, register=QUEUE_DRIVER, size=8, value=0x40100)
mmio_write(dom1, device=2, register=QUEUE_DEVICE, size=8, value=0x40200)
mmio_write(dom1, device=2, register=QUEUE_ENABLE, size=8, value=1)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=15)
store(dom1, gva=DIRECT+0x40300, size=8, value=4)
store(dom1, gva=DIRECT+0x40000, size=8, value=0x40300)
store(dom1, gva=DIRECT+0x40008, size=8, value=0x1000100000010)
store(dom1, gva=DIRECT+0x40010, size=8, value=0x40310)
store(dom1, gva=DIRECT+0x40018, size=8, value=0x200000001)
store(dom1, gva=DIRECT+0x40100, size=8, value=0x10000)
mmio_write(dom1, device=2, register=NOTIFY, size=8, value=0)
""",
)
