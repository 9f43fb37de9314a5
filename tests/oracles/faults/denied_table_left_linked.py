"""Tables for devices are asked for one by one, on the way down: when there is no next one, the last is left linked."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Refused
from hvfuzz.hypervisor.hypercalls.device.dma_map import DmaMap
from hvfuzz.hypervisor.memory.table_tree import RIGHTS
from hvfuzz.machine.addresses import PAGE_SHIFT

check = DmaMap.check


def replacement(self, hv, caller, vcpu):
    shortage, dma = hv.machine.shortage, caller.dma
    denied = shortage.at - shortage.requests
    effect = check(self, hv, caller, vcpu)
    if type(effect) is not Refused or effect.status is not Status.NO_POOL or shortage.at < 0:
        return effect
    page, table = self.iova >> PAGE_SHIFT, dma.root
    for level in range(dma.top, 1, -1):
        address = table + (page >> 9 * (level - 1) & 511) * 8
        entry = hv.host.read64(address)
        if not entry & RIGHTS:
            if not denied:
                break
            denied -= 1
            entry = dma.pool.take() << PAGE_SHIFT | dma.table_rights
            hv.host.write64(address, entry)
        table = entry & ~0xFFF
    return effect


BUG = Bug(
    name="denied-table-left-linked",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_map:DmaMap.check",
    replacement=replacement,
    findings=("recount/empty/device.dma_map",),
    trigger="""\
# hvp 1
world pair
deny(dom1, request=1)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
""",
)
