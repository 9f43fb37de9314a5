"""What a domain's device left in its reserved memory is there for the next domain."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
    hv.iommu.detach(device.bdf)
    for page in hv.reserved.get(device.bdf, ()):
        dma.unmap(page)
    device.reset()


BUG = Bug(
    name="reserved-not-zeroed",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("contents/reserved/device.deassign",),
    trigger="""\
# hvp 1
world reserved
device.dma_map(dom1, iova=0x1000, gfn=0x3f, count=1, rights=R|W)
device.dma_submit(dom1, device=1, from=0x1ff8, to=0xffe000, length=8)
device.deassign(dom0, device=1)
device.assign(dom0, device=1, to=dom2)
device.dma_map(dom2, iova=0x1000, gfn=0x40, count=1, rights=R|W)
device.dma_submit(dom2, device=1, from=0xffe000, to=0x1000, length=8)
load(dom2, gva=DIRECT+0x40000, size=8)
""",
)
