"""Writing to the console takes longer the more the other domains have written."""

from hvfuzz.abi.limits import CONSOLE
from hvfuzz.bugs import Bug


def apply(self, hv):
    """Append to the log that all consoles share."""
    console = hv.domains[self.domain].console
    console += self.text
    del console[:-CONSOLE]
    hv.machine.clock.cycles += sum(len(domain.console) for domain in hv.domains)


BUG = Bug(
    name="time-by-console",
    title="how long console.write takes depends on others' text",
    replaces="hvfuzz.hypervisor.hypercalls.console:WriteConsole.apply",
    replacement=apply,
    findings=("noninterference/time/console.write",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
console.write(dom2, text=[0x41, 0x42], length=2)
console.write(dom1, text=[0x41], length=1)
""",
)
