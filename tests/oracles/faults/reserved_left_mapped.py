"""A device is taken away, and what firmware keeps for it stays within reach of the domain's other devices (XSA-400)."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    hv.iommu.detach(device.bdf)
    device.reset()
    for page in hv.reserved.get(device.bdf, ()):
        hv.host.fill(page, 0)


BUG = Bug(
    name="reserved-left-mapped",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("ownership/reserved/device.deassign",),
    trigger="""\
# hvp 1
world reserved
device.deassign(dom0, device=1)
""",
)
