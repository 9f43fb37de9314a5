"""The limit POOL is that of domain 1 for every guest."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls.discovery import Limits

REAL = Limits.check


def check(self, hv, caller, vcpu):
    """Look at another domain's pool."""
    if self.what == 9 and caller.id:
        return Effect((), len(hv.domains[1].pool))
    return REAL(self, hv, caller, vcpu)


BUG = Bug(
    name="pool-of-one",
    title="every guest is told the pool of domain 1",
    replaces="hvfuzz.hypervisor.hypercalls.discovery:Limits.check",
    replacement=check,
    findings=("laws/names/discovery.limits",),
    story=__doc__,
    trigger="""\
# hvp 1
world bare
memory.populate(dom1, first=0x400, count=1, order=0)
discovery.limits(dom2, what=POOL)
""",
)
