"""A device is reset while its registers are mapped for another device of its last driver."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
    hv.iommu.detach(device.bdf)
    device.reset()
    window = hv.window_of(self.device)
    if window is not None:
        dma.unmap(window[1])
        del hv.windows[window]


BUG = Bug(
    name="reset-within-reach",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("ownership/quiet/device.deassign",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x2000, gfn=0xfe000, count=1, rights=R|W)
device.deassign(dom0, device=0)
""",
)
