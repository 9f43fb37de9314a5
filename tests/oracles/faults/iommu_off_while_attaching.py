"""Translation is off and stays off."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.dma import ContextTables

ORIGINAL = ContextTables.attach


def replacement(self, bdf, dma):
    ORIGINAL(self, bdf, dma)
    self.host.machine.iommu.enabled = False


BUG = Bug(
    name="iommu-off-while-attaching",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.attach",
    replacement=replacement,
    findings=("exits/control/device.assign",),
    trigger="""\
# hvp 1
world bare
device.assign(dom0, device=0, to=dom1)
""",
)
