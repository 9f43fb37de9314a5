"""A character of a console lands in the secret word of another domain, by the host's mapping of memory."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.console import CONSOLE
from hvfuzz.machine.addresses import PAGE_SHIFT


def replacement(self, hv):
    console = hv.domains[self.domain].console
    console += self.text
    del console[:-CONSOLE]
    entry, _, _ = hv.domains[2].stage2.lookup(0x30)
    page = entry >> PAGE_SHIFT & 0xFFFFF
    hv.host.write((page << PAGE_SHIFT) + 0xFFD, self.text[:1])


BUG = Bug(
    name="console-overwrites-a-canary",
    replaces="hvfuzz.hypervisor.hypercalls.console:WriteConsole.apply",
    replacement=replacement,
    findings=("host_memory/guest/console.write",),
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=[0x41], length=1)
""",
)
