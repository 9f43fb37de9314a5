"""A page that is mapped by a grant gets all rights first and loses those that it may not have: a store comes between.

In the trigger dom1 grants a page for reading only. While dom2 maps it, its other vCPU stores to it.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory.stage2 import BLOCK_LEVEL, FOREIGN, LARGE, WRITE_BACK
from hvfuzz.hypervisor.memory.table_tree import RIGHTS
from hvfuzz.machine.addresses import PAGE_SHIFT


def map_(self, gfn, hfn, rights, *, block=False, foreign=False):
    address = self.slot(gfn, BLOCK_LEVEL if block else 1)
    if self.host.read64(address) & RIGHTS:
        raise HostBug(f"gfn {gfn:#x} is mapped already")
    entry = hfn << PAGE_SHIFT | WRITE_BACK | (LARGE if block else 0) | (FOREIGN if foreign else 0)
    if block:
        self.frames.add_block_map(hfn)
    else:
        self.frames.add_map(hfn)
    self.host.write64(address, entry | RIGHTS)
    self.host.write64(address, entry | rights)


BUG = Bug(
    name="raced-grant-open-for-a-moment",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.map",
    replacement=map_,
    findings=("ownership/access/grant.map",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R)
race before write 3: store(dom2.1, gva=DIRECT+0x180000, size=8, value=1)
r1 = grant.map(dom2, granter=dom1, ref=r0, gfn=0x180, iova=0, flags=HOST|READONLY)
""",
)
