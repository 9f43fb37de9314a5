"""The host copies itself, between the frames of the present tables: unannounced."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.device import dma_submit
from hvfuzz.hypervisor.memory.table_tree import leaf_frame

ORIGINAL = dma_submit.SubmitDma.apply


def replacement(self, hv):
    dom = hv.iommu.domain_of(hv.machine.devices[self.device].bdf)
    dma = hv.domains[dom].dma
    s = leaf_frame(*dma.lookup(self.source >> 12)[:2], self.source >> 12) << 12 | self.source & 4095
    t = leaf_frame(*dma.lookup(self.target >> 12)[:2], self.target >> 12) << 12 | self.target & 4095
    hv.machine.memory.copy(t, s, self.length)


BUG = Bug(
    name="dma-not-moved-but-done",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_submit:SubmitDma.apply",
    replacement=replacement,
    findings=("host_memory/unannounced/device.dma_submit",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x5000, to=0x6000, length=8)
""",
)
