"""A device is assigned again without the memory that firmware keeps for it: its next access is blocked."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    bdf = hv.machine.devices[self.device].bdf
    dma = hv.domains[self.domain].dma
    if len(hv.domains) < len(hv.world.domains):  # at boot all is as it should be
        for page in hv.reserved.get(bdf, ()):
            dma.map(page, page, 3)
    hv.iommu.attach(bdf, dma)


BUG = Bug(
    name="reserved-not-mapped",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:AssignDevice.apply",
    replacement=replacement,
    findings=("ownership/reserved/device.assign",),
    trigger="""\
# hvp 1
world reserved
device.deassign(dom0, device=1)
device.assign(dom0, device=1, to=dom1)
""",
)
