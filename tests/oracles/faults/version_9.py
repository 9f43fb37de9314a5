"""The domain's version is what it wants."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    hv.domains[self.domain].version = 9


BUG = Bug(
    name="version-9",
    replaces="hvfuzz.hypervisor.hypercalls.discovery:SetVersion.apply",
    replacement=replacement,
    findings=("specification/version/discovery.version",),
    trigger="""\
# hvp 1
world pair
discovery.version(dom1, want=9)
sched.yield(dom1)
""",
)
