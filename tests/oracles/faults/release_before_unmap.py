"""The reference is dropped before the leaf goes (order)."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.grant import mappings


def replacement(self, hv):
    domain = hv.domains[self.domain]
    mapping = domain.handles[self.handle]
    mappings.drop_reference(hv, domain, self.handle, mapping, self.side)
    mappings.unmap_side(domain, mapping, self.side)


BUG = Bug(
    name="release-before-unmap",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:ReleaseSide.apply",
    replacement=replacement,
    findings=("stale/leaf/grant.unmap",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R|W)
r1 = grant.map(dom1, granter=dom2, ref=r0, gfn=0x400, iova=0x1000, flags=HOST|DEVICE)
grant.unmap(dom1, handle=r1, count=1, flags=HOST|DEVICE)
""",
)
