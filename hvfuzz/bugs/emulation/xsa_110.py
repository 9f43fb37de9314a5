"""XSA-110 / CVE-2014-8595: an emulated instruction raises the privilege level of the guest.

Cause: the emulation of far branches loaded the new code segment without the privilege checks of the processor, so a
guest's user mode could reach kernel level by having an instruction emulated.

Simplified: here only instructions that always exit are emulated (CPUID, port I/O); stepping over one of them resumes
the guest in ring 0.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.registers import RFLAGS, RIP, Saved
from hvfuzz.machine.cpu.vmcs import Vmcs
from hvfuzz.machine.mmu.paging import RFLAGS_RF


def step_over(vmcs: Vmcs) -> None:
    """Advance RIP to the next instruction, and set CPL to 0."""
    vmcs.saved[RIP] = vmcs.saved[RIP] + vmcs.length & U64
    vmcs.saved[RFLAGS] &= ~RFLAGS_RF
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
