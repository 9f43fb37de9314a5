"""Domain 2 gets read-only grants from everybody: its number is compared with a constant."""

from hvfuzz.bugs import Bug


def apply(self, hv):
    """Restrict the rights of a grant to domain 2."""
    entry = self.entry._replace(rights=1) if self.entry.to == 2 else self.entry
    hv.domains[self.domain].grants[self.ref] = entry
    hv.frames.add_grant(entry.frame)


BUG = Bug(
    name="grants-for-one-only",
    title="grants to domain 2 are read-only",
    replaces="hvfuzz.hypervisor.hypercalls.grant.entries:CreateGrant.apply",
    replacement=apply,
    findings=("laws/names/grant.create",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
grant.create(dom1, gfn=0x40, to=2, rights=R|W)
""",
)
