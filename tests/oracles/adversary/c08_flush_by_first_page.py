"""`memory.protect` flushes only if the first page of the range loses a right.

An optimisation that looks at one page for all: additional rights need no flush, fewer rights do (SDM Vol. 3C,
29.4.3.3). If the first page has the new rights already, the others stay writable for every processor that has used
them. A kernel that makes its code read-only finds that it is not.

In the trigger the first page is read-only before. Nothing of the second is in any cache.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.stage2 import _Protection
from hvfuzz.hypervisor.memory.table_tree import RIGHTS


def protect(self, first, count, rights):
    """Set rights; flush by what the first page loses."""
    cut = self.blocks_cut(first, count, rights)
    if len(cut) > len(self.pool.pages):
        return False
    for gfn in cut:
        self.split(gfn)
    before, _, _ = self.lookup(first)
    self.walk(first, count, _Protection(self, first, first + count, rights))
    if before & RIGHTS & ~rights:
        self.flush()
    return True


BUG = Bug(
    name="c08-flush-by-first-page",
    title="pages that lose a right are not flushed if the first of the range does not",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.protect",
    replacement=protect,
    story=__doc__,
    findings=("stale/unflushed/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x40, count=1, rights=R)
memory.protect(dom1, first=0x40, count=2, rights=R)
""",
)
