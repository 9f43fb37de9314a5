"""A guest maps the registers of another guest's device."""

from hvfuzz.bugs import Bug


def replacement(self, hv, caller, number):
    return None


BUG = Bug(
    name="window-of-any-device",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_map:DmaMap.window_refusal",
    replacement=replacement,
    findings=("ownership/registers/device.dma_map",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x2000, gfn=0xfe001, count=1, rights=R|W)
""",
)
