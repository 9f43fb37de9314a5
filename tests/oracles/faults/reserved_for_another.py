"""A device that firmware keeps nothing for gets the memory of one that it does."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    bdf = hv.machine.devices[self.device].bdf
    dma = hv.domains[self.domain].dma
    for region in hv.reserved.values():
        for page in region:
            dma.map(page, page, 3)
    hv.iommu.attach(bdf, dma)


BUG = Bug(
    name="reserved-for-another",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:AssignDevice.apply",
    replacement=replacement,
    findings=("ownership/reserved/device.assign",),
    trigger="""\
# hvp 1
world reserved
device.assign(dom0, device=0, to=dom2)
""",
)
