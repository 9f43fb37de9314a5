"""XSA-110 / CVE-2014-8595: emulation of an instruction leaves the guest at a privilege level it must not have.

Cause: the emulation of far branches loaded the new code segment without the privilege checks that the processor makes,
so that a guest's user mode could reach its kernel's level by having an instruction emulated.

Simplified: here the emulated instructions are those that always exit (CPUID, port I/O); stepping over one of them
enters the guest again in ring 0.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.registers import RIP, Saved
from hvfuzz.machine.cpu.vmcs import Vmcs


def step_over(vmcs: Vmcs) -> None:
    """Go on with the next instruction, in the segment of the kernel."""
    vmcs.saved[RIP] = vmcs.saved[RIP] + vmcs.length & U64
    vmcs.saved[Saved.CPL] = 0


BUG = Bug(
    name="xsa-110",
    advisory="XSA-110, CVE-2014-8595",
    title="an emulated instruction returns to the guest's user mode with kernel privilege",
    replaces="hvfuzz.hypervisor.core.exits:step_over",
    replacement=step_over,
    findings=("exits/registers/cpuid",),
    difficulty=4,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
sysret(dom1)
cpuid(dom1, leaf=0)
""",
)
