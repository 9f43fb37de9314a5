"""A triple fault of one vCPU stops all of its domain."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.processor_state import RunState


def replacement(self, vcpu):
    for other in vcpu.machine.vcpus:
        if other.domain == vcpu.domain:
            other.runnable = RunState.STOPPED


BUG = Bug(
    name="triple-fault-ends-domain",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.stop",
    replacement=replacement,
    findings=("specification/change/int",),
    trigger="""\
# hvp 1
world pair
lidt(dom1, gva=DIRECT+0x50000, limit=0xfff)
int(dom1, vector=3)
""",
)
