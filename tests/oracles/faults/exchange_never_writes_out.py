"""The result is never written."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    """The result is never written."""


BUG = Bug(
    name="exchange-never-writes-out",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:PutGuest.apply",
    replacement=replacement,
    findings=("specification/written/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.exchange(dom1, gfns=[0x60], out=[0], count=1, start=0)
""",
)
