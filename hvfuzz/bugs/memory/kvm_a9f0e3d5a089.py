"""KVM arm64 a9f0e3d5a089: a page table walker descends into a table that its callback has just freed.

Cause: the callback that installs a block mapping unlinked and freed the table below an entry. The walker had read the
entry before the callback, did not read it again, and continued into the freed table.

Simplified: the freed page returns to the domain's paging pool and is poisoned. In KVM another user could own it by
then.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.memory.table_tree import TableTree


def reload(self: TableTree, address: int, seen: int) -> int:
    """Return the entry as it was before the callback."""
    return seen


BUG = Bug(
    name="kvm-a9f0e3d5a089",
    advisory="Linux commit a9f0e3d5a089",
    title="the stage 2 walker descends into a table that was freed when a block mapping replaced it",
    replaces="hvfuzz.hypervisor.memory.table_tree:TableTree.reload",
    replacement=reload,
    findings=("host_memory/freed/memory.protect", "contents/free/memory.protect"),
    difficulty=3,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x400, count=1, order=9)
memory.protect(dom1, first=0x400, count=1, rights=R)
memory.protect(dom1, first=0x400, count=1, rights=R|W|X)
""",
)
