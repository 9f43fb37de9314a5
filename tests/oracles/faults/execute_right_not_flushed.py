"""`memory.protect` flushes only if pages lose the right to write, and not if they lose that to execute."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.stage2 import _Protection
from hvfuzz.hypervisor.memory.table_tree import WRITE


def replacement(self, first, count, rights):
    cut = self.blocks_cut(first, count, rights)
    if len(cut) > len(self.pool.pages):
        return False
    for gfn in cut:
        self.split(gfn)
    self.walk(first, count, _Protection(self, first, first + count, rights))
    if not rights & WRITE:
        self.flush()
    return True


BUG = Bug(
    name="execute-right-not-flushed",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.protect",
    replacement=replacement,
    findings=("stale/unflushed/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x40, count=1, rights=R|W)
""",
)
