"""Reading STATUS clears it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.read_register


def replacement(hv, device, offset, width):
    v = ORIGINAL(hv, device, offset, width)
    if offset == 0x20:
        device.registers[4] = 0
    return v


BUG = Bug(
    name="read-side-effect",
    replaces="hvfuzz.hypervisor.core.exits:read_register",
    replacement=replacement,
    findings=("exits/device/mmio_read",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0x5000, to=0x6000, length=8)
mmio_read(dom1, device=0, register=STATUS, size=8)
""",
)
