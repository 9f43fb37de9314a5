"""A page that is granted for reading is mapped with all rights first."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.stage2 import Stage2

ORIGINAL = Stage2.map


def replacement(self, gfn, hfn, rights, *, block=False, foreign=False):
    ORIGINAL(self, gfn, hfn, 7 if foreign else rights, block=block, foreign=foreign)
    if foreign:
        entry, _, address = self.lookup(gfn)
        self.host.write64(address, entry & ~7 | rights)
        self.flush()


BUG = Bug(
    name="grant-writable-for-a-moment",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.map",
    replacement=replacement,
    findings=("ownership/moment/grant.map",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R)
r1 = grant.map(dom2, granter=dom1, ref=r0, gfn=0x100, iova=0, flags=HOST|READONLY)
""",
)
