"""The handle says read-write for a read-only mapping whose leaf is read-only."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.grant import mappings

ORIGINAL = mappings.Map.check


def replacement(self, hv, caller, vcpu):
    e = ORIGINAL(self, hv, caller, vcpu)
    if isinstance(e, Refused):
        return e
    s = e.steps[0]
    return Effect((mappings.MapGrant(s.domain, s.handle, s.mapping._replace(rights=3)),), e.result)


BUG = Bug(
    name="handle-rights",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:Map.check",
    replacement=replacement,
    findings=("specification/page/grant.map",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R|W)
grant.map(dom2, granter=dom1, ref=r0, gfn=0x400, iova=0, flags=HOST|READONLY)
""",
)
