"""Only SRC, DST and LENGTH are cleared."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    hv.iommu.detach(device.bdf)
    for r in (0, 8, 16):
        device.mmio_write(r, 8, 0)


BUG = Bug(
    name="assign-without-reset-status",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("exits/device/device.deassign",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x5000, to=0x6000, length=8)
device.deassign(dom0, device=0)
""",
)
