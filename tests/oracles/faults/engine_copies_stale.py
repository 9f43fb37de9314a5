"""An engine without room for a whole copy fills the end of the target from its last copy: a buffer never cleared."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.dma_engine import DmaEngine

ORIGINAL = DmaEngine.dma_write
LAST = [bytes(8)]


def replacement(self, iova, data):
    ORIGINAL(self, iova, data[:-8] + LAST[0] if len(data) > 64 else data)
    LAST[0] = bytes(data[-8:])


BUG = Bug(
    name="engine-copies-stale",
    replaces="hvfuzz.machine.devices.pci_function:Device.dma_write",
    replacement=replacement,
    findings=("exits/answer/device.dma_submit",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=2, rights=R|W)
store(dom1, gva=DIRECT+0x40078, size=8, value=0x1122334455667788)
device.dma_submit(dom1, device=0, from=0x1000, to=0x2000, length=0x80)
""",
)
