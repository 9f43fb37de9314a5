"""The last page of the interrupt range may be mapped."""

from hvfuzz.abi.limits import IOVA_LIMIT
from hvfuzz.bugs import Bug


def replacement(iova, count):
    end = iova + (count << 12)
    if not 0 < count <= 64 or iova & 4095 or end > IOVA_LIMIT:
        return False
    return end <= 0xFEE00000 or iova >= 0xFEEFF000


BUG = Bug(
    name="hole-by-one",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_map:iova_range_ok",
    replacement=replacement,
    findings=("specification/status/device.dma_map",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0xFEEFF000, gfn=0x40, count=1, rights=R)
""",
)
