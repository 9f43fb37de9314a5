"""All devices are reset, those of other domains too."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    hv.iommu.detach(device.bdf)
    for d in hv.machine.devices:
        d.reset()


BUG = Bug(
    name="deassign-resets-all",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("ownership/quiet/device.deassign",),
    trigger="""\
# hvp 1
world devices
mmio_write(dom2, device=1, register=SRC, size=8, value=0x1234)
device.deassign(dom0, device=0)
mmio_read(dom2, device=1, register=SRC, size=8)
""",
)
