"""Domain numbers are modulo the number of domains."""

from hvfuzz.abi.limits import SELF
from hvfuzz.bugs import Bug


def replacement(self, caller, number):
    return caller if number == SELF else list.__getitem__(self.domains, number % len(self.domains))


BUG = Bug(
    name="resolve-wraps",
    replaces="hvfuzz.hypervisor.core.hypervisor:Hypervisor.resolve",
    replacement=replacement,
    findings=("specification/status/event.alloc",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=5)
""",
)
