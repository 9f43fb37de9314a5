"""The vCPU that runs after one that blocks has its MSRs: they are not switched.

As in hypervisors that leave the MSRs of system calls in the processor until somebody needs them (KVM's user-return
MSRs), but without the reload. The next vCPU may be another guest's: its SYSCALL enters the kernel at an address that
the first guest chose, with segments and a GS base of its choice. Any process there then runs as the kernel.

In the trigger vCPU 1 of dom1 blocks within a multicall, and dom2 reads an LSTAR that it never wrote.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.processor_state import RunState


def block(self, vcpu):
    """Stop `vcpu`; the next vCPU takes over the processor as it is."""
    self.polls.pop(vcpu.id, None)
    vcpu.runnable = RunState.BLOCKED
    vcpus = vcpu.machine.vcpus
    vcpus[(vcpu.id + 1) % len(vcpus)].msrs = dict(vcpu.msrs)


BUG = Bug(
    name="c05-block-passes-msrs-on",
    title="the next domain's vCPU gets the MSRs of the one that blocks",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.block",
    replacement=block,
    findings=("principal/state/multicall",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom1.1, index=LSTAR, value=0x400000)
multicall(dom1.1, count=2)
  sched.block(dom1.1)
  sched.yield(dom1.1)
rdmsr(dom2, index=LSTAR)
syscall(dom2)
""",
)
