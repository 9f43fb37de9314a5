"""HLT stops the vCPU for ever, and the exit information says that this was a triple fault."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.vmcs import ExitReason


def replacement(hv, vcpu):
    vcpu.vmcs.reason = ExitReason.TRIPLE_FAULT
    hv.scheduler.stop(vcpu)


BUG = Bug(
    name="exit-reason-rewritten",
    replaces="hvfuzz.hypervisor.core.exits:hlt",
    replacement=replacement,
    findings=("exits/registers/hlt",),
    trigger="""\
# hvp 1
world pair
hlt(dom1)
""",
)
