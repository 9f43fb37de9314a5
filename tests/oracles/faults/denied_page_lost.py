"""A denied request takes its page off the pool all the same: the domain's quota shrinks."""

from hvfuzz.bugs import Bug


def replacement(self, pages):
    if pages > len(self.pages):
        return True
    shortage = self.host.machine.shortage
    if shortage.at >= 0 and shortage.denies(pages):
        self.pages.pop()
        return True
    return False


BUG = Bug(
    name="denied-page-lost",
    replaces="hvfuzz.hypervisor.memory.table_pool:TablePool.lacks",
    replacement=replacement,
    findings=("specification/pool/grant.map",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R|W)
deny(dom2, request=0)
grant.map(dom2, granter=dom1, ref=r0, gfn=0x400, iova=0, flags=HOST)
""",
)
