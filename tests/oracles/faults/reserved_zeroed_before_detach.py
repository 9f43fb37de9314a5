"""A device's reserved memory is zeroed while the device can still write to it."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
    for page in hv.reserved.get(device.bdf, ()):
        hv.host.fill(page, 0)
    hv.iommu.detach(device.bdf)
    for page in hv.reserved.get(device.bdf, ()):
        dma.unmap(page)
    device.reset()


BUG = Bug(
    name="reserved-zeroed-before-detach",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("stale/leaf/device.deassign",),
    trigger="""\
# hvp 1
world reserved
device.deassign(dom0, device=1)
""",
)
