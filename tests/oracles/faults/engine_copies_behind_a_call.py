"""A batch has the engine make its last copy once more, after the call has checked it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.device.dma_submit import SubmitDma

ORIGINAL = SubmitDma.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    hv.machine.devices[self.device].mmio_write(0x18, 8, 1)


BUG = Bug(
    name="engine-copies-behind-a-call",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_submit:SubmitDma.apply",
    replacement=replacement,
    findings=("exits/dma/device.dma_submit",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x1000, to=0x2000, length=8)
""",
)
