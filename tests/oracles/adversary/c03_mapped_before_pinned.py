"""A granted frame is mapped first and pinned afterwards.

Between the two, the granter's entry looks unused: on another processor the granter may revoke it and give up the page.
The frame is freed and handed to somebody else while the mapper's leaf still leads to it (as in XSA-224, XSA-234).

In the trigger dom2 maps a page of dom1, for itself and for its devices. The counts are right in the end.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.ipc.grants import pin, sides_of
from hvfuzz.machine.addresses import PAGE_SHIFT


def apply(self, hv):
    """Map, then pin."""
    domain, mapping = hv.domains[self.domain], self.mapping
    domain.handles[self.handle] = mapping
    if mapping.host:
        domain.stage2.map(mapping.gfn, mapping.frame, mapping.rights, foreign=True)
    if mapping.device:
        domain.dma.map(mapping.iova >> PAGE_SHIFT, mapping.frame, mapping.rights, foreign=True)
    pin(hv, mapping, sides_of(mapping), 1)


BUG = Bug(
    name="c03-mapped-before-pinned",
    title="a granted frame can be reached for a moment before anything keeps its owner from freeing it",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:MapGrant.apply",
    replacement=apply,
    story=__doc__,
    findings=("recount/uncounted/grant.map",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R|W)
r1 = grant.map(dom2, granter=dom1, ref=r0, gfn=0x100, iova=0x1000, flags=HOST|DEVICE)
""",
)
