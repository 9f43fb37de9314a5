"""HLT of a vCPU clears the task register of all others: their handlers have no stacks, and their ports no bit map."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.scheduler import Scheduler

ORIGINAL = Scheduler.halt


def halt(self, vcpu):
    ORIGINAL(self, vcpu)
    for each in vcpu.machine.vcpus:
        if each is not vcpu:
            each.tr = (0, 0)


BUG = Bug(
    name="task-register-lost",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.halt",
    replacement=halt,
    findings=("principal/state/hlt",),
    trigger="""\
# hvp 1
world pair
ltr(dom2, gva=DIRECT+0x50000, limit=0x67)
hlt(dom1.1)
""",
)
