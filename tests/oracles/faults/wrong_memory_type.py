"""Memory is mapped with memory type 2, which is reserved: the first access is a misconfiguration."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory import stage2
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, LARGE, RIGHTS


def replacement(self, gfn, hfn, rights, *, block=False, foreign=False):
    address = self.slot(gfn, 2 if block else 1)
    if self.host.read64(address) & RIGHTS:
        raise HostBug("x")
    entry = hfn << 12 | (2 << 3 if foreign else stage2.WRITE_BACK) | rights
    if block:
        entry |= LARGE
    if foreign:
        entry |= FOREIGN
    if block:
        self.frames.add_block_map(hfn)
    else:
        self.frames.add_map(hfn)
    self.host.write64(address, entry)


BUG = Bug(
    name="wrong-memory-type",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.map",
    replacement=replacement,
    findings=("ownership/entry/grant.map",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R|W)
grant.map(dom2, granter=dom1, ref=r0, gfn=0x400, iova=0, flags=HOST)
""",
)
