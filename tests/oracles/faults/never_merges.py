"""Split superpages stay split."""

from hvfuzz.bugs import Bug


def replacement(self, table, start, end, rights):
    return 0


BUG = Bug(
    name="never-merges",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.mergeable",
    replacement=replacement,
    findings=("recount/size/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.protect(dom1, first=0x200, count=1, rights=R)
memory.protect(dom1, first=0x200, count=1, rights=R|W|X)
discovery.limits(dom1, what=POOL)
""",
)
