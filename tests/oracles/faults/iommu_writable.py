"""READONLY is for the host side only."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.ipc import grants


def replacement(self, hv):
    domain, mapping = hv.domains[self.domain], self.mapping
    domain.handles[self.handle] = mapping
    grants.pin(hv, mapping, grants.sides_of(mapping), 1)
    if mapping.host:
        domain.stage2.map(mapping.gfn, mapping.frame, mapping.rights, foreign=True)
    if mapping.device:
        domain.dma.map(mapping.iova >> 12, mapping.frame, 3, foreign=True)


BUG = Bug(
    name="iommu-writable",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:MapGrant.apply",
    replacement=replacement,
    findings=("ownership/rights/grant.map",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R)
grant.map(dom1, granter=dom2, ref=r0, gfn=0, iova=0x1000, flags=DEVICE|READONLY)
""",
)
