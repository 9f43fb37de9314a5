"""An event "wakes" the first vCPU of the domain that is not stopped, one that runs included.

The vCPU that runs needs no waking; the one that waits for the event sleeps on. The wake-up is lost: a guest whose
vCPU 0 is busy never gets another vCPU woken by events, and the sender can keep it so.

In the trigger vCPU 1 blocks, vCPU 0 runs, and dom2 sends an event: vCPU 1 must run.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.processor_state import RunState


def event(self, vcpus, port):
    """Wake the first vCPU that can run."""
    for vcpu in vcpus:
        if vcpu.runnable == RunState.STOPPED or (vcpu.runnable == RunState.POLLING and not self.polls_on(vcpu, port)):
            continue
        self.wake(vcpu)
        return


BUG = Bug(
    name="c11-event-wakes-the-running",
    title="an event is spent on a vCPU that runs, and the one that waits sleeps on",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.event",
    replacement=event,
    findings=("specification/vcpu/event.send",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
r1 = event.bind(dom2, remote=dom1, port=r0)
sched.block(dom1.1)
event.send(dom2, port=r1)
pause(dom1.1)
""",
)
