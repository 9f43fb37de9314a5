"""A domain that asks for the first version is privileged."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    d = hv.domains[self.domain]
    d.version = self.version
    d.privileged = True


BUG = Bug(
    name="privilege-gained",
    replaces="hvfuzz.hypervisor.hypercalls.discovery:SetVersion.apply",
    replacement=replacement,
    findings=("specification/privilege/discovery.version",),
    trigger="""\
# hvp 1
world pair
discovery.version(dom1, want=2)
""",
)
