"""Exits of halted domains are dropped; others go on."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.machine.cpu.vmcs import ExitReason

handle_exit = exits.handle_exit


def replacement(hv, vcpu):
    if vcpu.vmcs.reason is ExitReason.CPUID:
        return
    handle_exit(hv, vcpu)


BUG = Bug(
    name="handler-forgets-exit",
    replaces="hvfuzz.hypervisor.core.exits:handle_exit",
    replacement=replacement,
    findings=("exits/registers/cpuid",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0)
""",
)
