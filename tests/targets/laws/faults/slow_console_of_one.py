"""The console of domain 2 is slower than that of the others, by a few cycles for each call."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.console import WriteConsole

REAL = WriteConsole.apply


def apply(self, hv):
    """Charge domain 2 for a line of its own."""
    if self.domain == 2:
        hv.machine.clock.cycles += 8
    REAL(self, hv)


BUG = Bug(
    name="slow-console-of-one",
    title="a call takes longer in domain 2",
    replaces="hvfuzz.hypervisor.hypercalls.console:WriteConsole.apply",
    replacement=apply,
    findings=("laws/names/console.write",),
    story=__doc__,
    trigger="""\
# hvp 1
world bare
console.write(dom1, text=[0x41], length=1)
""",
)
