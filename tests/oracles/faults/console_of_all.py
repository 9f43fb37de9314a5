"""The text is on the control domain's console, too."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls import console

ORIGINAL = console.WriteConsole.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    hv.domains[0].console += self.text


BUG = Bug(
    name="console-of-all",
    replaces="hvfuzz.hypervisor.hypercalls.console:WriteConsole.apply",
    replacement=replacement,
    findings=("specification/console/console.write",),
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=DIRECT+0x40000, length=1)
""",
)
