"""When a device is taken, the last page of its reserved memory is not cleared.

The loop that zeroes the pages ends one too early. The next owner of the device finds there what the last one wrote.

In the trigger dom1 has its device write to the second reserved page. Device and page go to dom2, which reads it.
"""

from hvfuzz.bugs import Bug


def apply(self, hv):
    """Detach, unmap, reset, zero all but one page."""
    device = hv.machine.devices[self.device]
    dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
    hv.iommu.detach(device.bdf)
    window = hv.window_of(self.device)
    if window is not None:
        dma.unmap(window[1])
        del hv.windows[window]
    reserved = hv.reserved.get(device.bdf, ())
    for page in reserved:
        dma.unmap(page)
    device.reset()
    for page in reserved[:-1]:
        hv.host.fill(page, 0)


BUG = Bug(
    name="c02-reserved-last-page",
    title="the last page of a device's reserved memory keeps the data of its last owner",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=apply,
    findings=("contents/reserved/device.deassign",),
    story=__doc__,
    trigger="""\
# hvp 1
world reserved
store(dom1, gva=DIRECT+0x40003, size=8, value=0x5ec2e75ec2e7)
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
device.dma_submit(dom1, device=1, from=0x1003, to=0xfff005, length=8)
device.deassign(dom0, device=1)
device.assign(dom0, device=1, to=dom2)
device.dma_map(dom2, iova=0x1000, gfn=0x40, count=1, rights=R|W)
device.dma_submit(dom2, device=1, from=0xfff000, to=0x1000, length=16)
load(dom2, gva=DIRECT+0x40005, size=8)
""",
)
