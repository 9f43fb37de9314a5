"""The console of the domain is gone: no bytes, but None."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    hv.domains[self.domain].console = None


BUG = Bug(
    name="console-none",
    replaces="hvfuzz.hypervisor.hypercalls.console:WriteConsole.apply",
    replacement=replacement,
    findings=("specification/state/console.write",),
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=DIRECT+0x40000, length=1)
""",
)
