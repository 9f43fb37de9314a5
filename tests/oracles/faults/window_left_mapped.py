"""A device is taken away, and its registers stay within reach of its former owner's devices."""

from hvfuzz.bugs import Bug


def replacement(self, device):
    return None


BUG = Bug(
    name="window-left-mapped",
    replaces="hvfuzz.hypervisor.core.hypervisor:Hypervisor.window_of",
    replacement=replacement,
    findings=("ownership/registers/device.deassign",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x2000, gfn=0xfe000, count=1, rights=R|W)
device.deassign(dom0, device=0)
""",
)
