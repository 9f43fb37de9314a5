"""Only the first and the last page are looked at."""

from hvfuzz.bugs import Bug


def replacement(caller, iova, length, right):
    return all(caller.dma.lookup(p)[0] & right for p in (iova >> 12, iova + length - 1 >> 12))


BUG = Bug(
    name="reaches-ends",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_submit:reaches",
    replacement=replacement,
    findings=("specification/status/device.dma_submit",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=1, rights=R|W)
device.dma_map(dom1, iova=0x7000, gfn=0x41, count=1, rights=R|W)
device.dma_map(dom1, iova=0x10000, gfn=0x42, count=3, rights=R|W)
device.dma_submit(dom1, device=0, from=0x5800, to=0x10000, length=8192)
""",
)
