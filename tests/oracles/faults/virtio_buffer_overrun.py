"""A device writes all of its answer to the first buffer, however short that is."""

from hvfuzz.bugs import Bug


def replacement(self, segments, offset, data):
    for iova, length in segments:
        if offset < length and data:
            self.write(iova + offset, data)
            return
        offset -= min(offset, length)


BUG = Bug(
    name="virtio-buffer-overrun",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.scatter",
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
store(dom1, gva=DIRECT+0x40300, size=8, value=0)
store(dom1, gva=DIRECT+0x40308, size=8, value=0)
store(dom1, gva=DIRECT+0x40000, size=8, value=0x40300)
store(dom1, gva=DIRECT+0x40008, size=8, value=0x1000100000010)
store(dom1, gva=DIRECT+0x40010, size=8, value=0x41000)
store(dom1, gva=DIRECT+0x40018, size=8, value=0x2000300000100)
store(dom1, gva=DIRECT+0x40020, size=8, value=0x42000)
store(dom1, gva=DIRECT+0x40028, size=8, value=0x200000101)
store(dom1, gva=DIRECT+0x40102, size=2, value=1)
mmio_write(dom1, device=2, register=NOTIFY, size=8, value=0)
""",
)
