"""a9f0e3d5a089."""

from hvfuzz.bugs import Bug


def replacement(self, address, seen):
    return seen


BUG = Bug(
    name="walk-stale",
    replaces="hvfuzz.hypervisor.memory.table_tree:TableTree.reload",
    replacement=replacement,
    findings=("host_memory/freed/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.protect(dom1, first=0x200, count=1, rights=R)
memory.protect(dom1, first=0x200, count=1, rights=R|W|X)
""",
)
