"""A disk is reset as its driver resets it, so that what is on it stays."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    hv.iommu.detach(device.bdf)
    device.mmio_write(0x88, 8, 0)


BUG = Bug(
    name="disk-unscrubbed",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("secrets/device/device.deassign",),
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
store(dom1, gva=DIRECT+0x40300, size=8, value=1)
store(dom1, gva=DIRECT+0x40308, size=8, value=0)
store(dom1, gva=DIRECT+0x40000, size=8, value=0x40300)
store(dom1, gva=DIRECT+0x40008, size=8, value=0x1000100000010)
store(dom1, gva=DIRECT+0x40010, size=8, value=0x41000)
store(dom1, gva=DIRECT+0x40018, size=8, value=0x2000100000200)
store(dom1, gva=DIRECT+0x40020, size=8, value=0x40310)
store(dom1, gva=DIRECT+0x40028, size=8, value=0x200000001)
store(dom1, gva=DIRECT+0x40102, size=2, value=1)
mmio_write(dom1, device=2, register=NOTIFY, size=8, value=0)
store(dom1, gva=DIRECT+0x41000, size=8, value=0x77)
store(dom1, gva=DIRECT+0x40106, size=2, value=0)
store(dom1, gva=DIRECT+0x40102, size=2, value=2)
mmio_write(dom1, device=2, register=NOTIFY, size=8, value=0)
device.deassign(dom0, device=2)
""",
)
