"""A vCPU whose poll times out resumes with CR0 and EFER as at power-on.

What the guest had switched off is on again, and the other way round: here SYSCALL, which the kernel had disabled since
it has no handler, works again, and leads a process into ring 0 at a stale address; write protection is set or cleared
behind the kernel's back.

In the trigger vCPU 1 clears EFER.SCE and CR0.WP, and polls. An exit of dom2 ends the poll.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.processor_state import CR0_AT_START, EFER_AT_START


def expire(self, vcpus):
    """Wake the vCPUs whose deadline has passed."""
    now = self.clock.cycles
    for vcpu_id in [vcpu_id for vcpu_id, poll in self.polls.items() if poll.deadline <= now]:
        vcpu = vcpus[vcpu_id]
        self.wake(vcpu)
        vcpu.cr0, vcpu.efer = CR0_AT_START, EFER_AT_START


BUG = Bug(
    name="c05-timeout-restores-efer",
    title="a poll that times out resets CR0 and EFER of its vCPU",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.expire",
    replacement=expire,
    findings=("principal/state/sched.yield",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
wrmsr(dom1.1, index=EFER, value=0x900)
mov_cr(dom1.1, register=CR0, value=0x80000033)
sched.poll(dom1.1, ports=[r0], count=1, timeout=1)
sched.yield(dom2)
sched.yield(dom2)
read_cr(dom1.1, register=CR0)
rdmsr(dom1.1, index=EFER)
""",
)
