"""Taking any device away rings the bell of all devices."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    hv.iommu.detach(device.bdf)
    device.reset()
    for other in hv.machine.devices:
        other.mmio_write(0x80, 8, 0)


BUG = Bug(
    name="kicked-by-another-call",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("exits/dma/device.deassign",),
    trigger="""\
# hvp 1
world virtio
device.assign(dom0, device=0, to=dom1)
device.assign(dom0, device=1, to=dom1)
device.dma_map(dom1, iova=0x40000, gfn=0x40, count=4, rights=R|W)
mmio_write(dom1, device=2, register=DRIVER_FEATURES, size=8, value=0x100000000)
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
device.deassign(dom0, device=0)
""",
)
