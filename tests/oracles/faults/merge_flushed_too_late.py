"""The table under a merged large page is poisoned and pooled, and flushed only then."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import ADDRESS
from hvfuzz.machine.addresses import PAGE_SHIFT


def replacement(self, address, entry, block):
    self.host.write64(address, block)
    self.pool.put((entry & ADDRESS) >> PAGE_SHIFT)
    self.flush()


BUG = Bug(
    name="merge-flushed-too-late",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.merge",
    replacement=replacement,
    findings=("stale/unflushed/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.protect(dom1, first=0x205, count=1, rights=R)
memory.protect(dom1, first=0x205, count=1, rights=R|W|X)
""",
)
