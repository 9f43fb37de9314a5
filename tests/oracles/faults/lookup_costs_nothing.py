"""Looking pages up in tables is no work, so that a call which does little else is never preempted."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import TableTree

ORIGINAL = TableTree.lookup


def replacement(self, page):
    before = self.host.work.units
    found = ORIGINAL(self, page)
    self.host.work.units = before
    return found


BUG = Bug(
    name="lookup-costs-nothing",
    replaces="hvfuzz.hypervisor.memory.table_tree:TableTree.lookup",
    replacement=replacement,
    findings=("work/units/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x50, count=2, rights=R)
""",
)
