"""Entries for a domain that does not exist."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.grant import entries

ORIGINAL = entries.Create.check


def replacement(self, hv, caller, vcpu):
    e = ORIGINAL(self, hv, caller, vcpu)
    if isinstance(e, Refused):
        return e
    s = e.steps[0]
    return Effect((entries.CreateGrant(s.domain, s.ref, s.entry._replace(to=200, frame=s.entry.frame)),), e.result)


BUG = Bug(
    name="grant-to-nobody",
    replaces="hvfuzz.hypervisor.hypercalls.grant.entries:Create.check",
    replacement=replacement,
    findings=("specification/grant/grant.create",),
    trigger="""\
# hvp 1
world pair
grant.create(dom1, gfn=0x40, to=dom2, rights=R)
grant.map(dom2, granter=dom1, ref=0, gfn=0x400, iova=0, flags=HOST|READONLY)
""",
)
