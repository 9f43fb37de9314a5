"""A device's reserved memory is unmapped while the device runs: it loses what firmware told it to use."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
    reserved = hv.reserved.get(device.bdf, ())
    for page in reserved:
        dma.unmap(page)
    hv.iommu.detach(device.bdf)
    device.reset()
    for page in reserved:
        hv.host.fill(page, 0)


BUG = Bug(
    name="reserved-unmapped-before-detach",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("ownership/moment/device.deassign",),
    trigger="""\
# hvp 1
world reserved
device.deassign(dom0, device=1)
""",
)
