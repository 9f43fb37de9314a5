"""A device page is made to name the registers of another domain's device: a frame number that nobody has checked."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.register_windows import registers_of


def replacement(self, hv):
    dma = hv.domains[self.domain].dma
    hv.host.write64(dma.slot(self.page, 1), registers_of(1) | self.rights)


BUG = Bug(
    name="registers-within-reach",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_map:MapDma.apply",
    replacement=replacement,
    findings=("ownership/registers/device.dma_map",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
""",
)
