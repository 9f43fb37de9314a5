"""A device goes from one domain to the next with its registers: the last driver has set it up."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
    hv.iommu.detach(device.bdf)
    for page in hv.reserved.get(device.bdf, ()):
        dma.unmap(page)
        hv.host.fill(page, 0)


BUG = Bug(
    name="device-passed-on-unreset",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("ownership/quiet/device.assign",),
    trigger="""\
# hvp 1
world pair
device.deassign(dom0, device=0)
device.assign(dom0, device=0, to=dom2)
""",
)
