"""A page gets all rights, and then those that were asked for, so that code is writable for a moment."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import RIGHTS


def replacement(self, page, level, entry, address):
    if entry & RIGHTS:
        self.stage2.host.write64(address, entry | RIGHTS)
        self.stage2.host.write64(address, entry & ~RIGHTS | self.rights)


BUG = Bug(
    name="rights-all-for-a-moment",
    replaces="hvfuzz.hypervisor.memory.stage2:_Protection.leaf",
    replacement=replacement,
    findings=("ownership/moment/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x40, count=1, rights=R|W)
memory.protect(dom1, first=0x40, count=1, rights=R|X)
""",
)
