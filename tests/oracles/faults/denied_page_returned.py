"""The way out of a denied request returns a table page to the pool that was never taken."""

from hvfuzz.bugs import Bug


def replacement(self, pages):
    if pages > len(self.pages):
        return True
    shortage = self.host.machine.shortage
    if shortage.at >= 0 and shortage.denies(pages):
        self.pages.append(self.pages[-1])
        return True
    return False


BUG = Bug(
    name="denied-page-returned",
    replaces="hvfuzz.hypervisor.memory.table_pool:TablePool.lacks",
    replacement=replacement,
    findings=("specification/pool/memory.populate",),
    trigger="""\
# hvp 1
world pair
deny(dom1, request=1)
memory.populate(dom1, first=0x200, count=1, order=0)
""",
)
