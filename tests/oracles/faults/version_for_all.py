"""All domains speak that version."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    for d in hv.domains:
        d.version = self.version


BUG = Bug(
    name="version-for-all",
    replaces="hvfuzz.hypervisor.hypercalls.discovery:SetVersion.apply",
    replacement=replacement,
    findings=("specification/version/discovery.version",),
    trigger="""\
# hvp 1
world pair
discovery.version(dom1, want=1)
memory.exchange(dom2, gfns=[0x60], out=[0], count=1, start=0)
""",
)
