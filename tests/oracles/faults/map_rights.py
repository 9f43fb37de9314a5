"""The caller's own rights are not looked at; nor the owner of the second page of a range."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import page_checks
from hvfuzz.hypervisor.memory.table_tree import RIGHTS, leaf_frame


def replacement(self, hv, caller, gfn, entry, level):
    if not entry & RIGHTS:
        return page_checks.ABSENT
    return leaf_frame(entry, level, gfn)


BUG = Bug(
    name="map-rights",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_map:DmaMap.frame",
    replacement=replacement,
    findings=("ownership/foreign/device.dma_map",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R)
grant.map(dom1, granter=dom2, ref=r0, gfn=0x400, iova=0, flags=HOST|READONLY)
device.dma_map(dom1, iova=0x5000, gfn=0x400, count=1, rights=R|W)
""",
)
