"""LENGTH is written to the other engine as well."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.device import dma_submit

ORIGINAL = dma_submit.SubmitDma.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    hv.machine.devices[self.device ^ 1].mmio_write(0, 8, self.source)


BUG = Bug(
    name="submit-clobbers-other",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_submit:SubmitDma.apply",
    replacement=replacement,
    findings=("exits/others/device.dma_submit",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x5000, to=0x6000, length=8)
mmio_read(dom2, device=1, register=SRC, size=8)
""",
)
