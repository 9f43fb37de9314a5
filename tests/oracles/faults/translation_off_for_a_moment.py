"""Translation is off while a context entry is written: every device reaches all memory."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.dma import ContextTables

ORIGINAL = ContextTables.attach


def replacement(self, bdf, dma):
    iommu = self.host.machine.iommu
    iommu.disable()
    ORIGINAL(self, bdf, dma)
    iommu.enable(self.root)


BUG = Bug(
    name="translation-off-for-a-moment",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.attach",
    replacement=replacement,
    findings=("ownership/moment/device.assign",),
    trigger="""\
# hvp 1
world bare
device.assign(dom0, device=0, to=dom1)
""",
)
