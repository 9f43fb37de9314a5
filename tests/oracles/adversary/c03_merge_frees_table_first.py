"""When 512 small leaves merge into a large one, their table goes to the pool before the large leaf replaces it.

For a moment the tables that the processors walk lead into a page that is poisoned and marked free. A vCPU of the domain
that walks then hits a misconfiguration, which stops the host; had the page been handed out meanwhile, its new content
would be walked as a table: a guest that chooses that content chooses its host frames (SDM Vol. 3C, 29.4.2).

In the trigger a large page splits and merges. At the end of the step everything is in order.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import ADDRESS
from hvfuzz.machine.addresses import PAGE_SHIFT


def merge(self, address, entry, block):
    """Free the table, then replace it."""
    self.pool.put((entry & ADDRESS) >> PAGE_SHIFT)
    self.host.write64(address, block)
    self.flush()


BUG = Bug(
    name="c03-merge-frees-table-first",
    title="a table is poisoned and returned to the pool while the entry above still leads to it",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.merge",
    replacement=merge,
    story=__doc__,
    findings=("ownership/moment/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.protect(dom1, first=0x205, count=1, rights=R)
memory.protect(dom1, first=0x205, count=1, rights=R|W|X)
""",
)
