"""The device is reset, and only then detached: its driver can set it up again in between."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
    device.reset()
    window = hv.window_of(self.device)
    if window is not None:
        dma.unmap(window[1])
        del hv.windows[window]
    reserved = hv.reserved.get(device.bdf, ())
    hv.iommu.detach(device.bdf)
    for page in reserved:
        dma.unmap(page)
    for page in reserved:
        hv.host.fill(page, 0)


BUG = Bug(
    name="reset-before-detach",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("ownership/quiet/device.deassign",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1000)
device.deassign(dom0, device=0)
device.assign(dom0, device=0, to=dom2)
""",
)
