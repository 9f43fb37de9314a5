"""The deadline of a poll is exact: a kick tells to the cycle how long the others have worked."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.scheduler import Poll
from hvfuzz.machine.cpu.processor_state import RunState


def poll(self, vcpu, ports, timeout):
    """Stop `vcpu` for `timeout` cycles from now."""
    self.polls[vcpu.id] = Poll(ports, self.clock.cycles + timeout)
    vcpu.runnable = RunState.POLLING


BUG = Bug(
    name="exact-poll",
    title="a poll ends at an exact cycle",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.poll",
    replacement=poll,
    findings=("noninterference/result/sched.kick",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom0)
sched.poll(dom1.1, ports=[r0], count=1, timeout=20000)
sched.yield(dom1)
sched.kick(dom1, vcpu=1)
""",
)
