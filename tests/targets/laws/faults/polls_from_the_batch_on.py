"""Within a multicall, the time of a poll begins when the multicall did, though a slice was given up before it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.hypercalls.multicall import OUTCOME
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.hypervisor.vcpu.scheduler import Poll


def apply(self, hv):
    """Make the entry; take the slice that an earlier one gave up from the time of a poll."""
    vcpu = hv.machine.vcpus[self.vcpu]
    status, result = dispatch.call(hv, vcpu, self.number, self.args)
    poll = hv.scheduler.polls.get(self.vcpu)
    if poll is not None and self.batch.succeeded:
        hv.scheduler.polls[self.vcpu] = Poll(poll.ports, poll.deadline - 0x4000)
    guest_access.copy_to_guest(hv, vcpu, self.outcome, OUTCOME.pack(status.word, result))
    self.batch.succeeded += status == 0


BUG = Bug(
    name="polls-from-the-batch-on",
    title="the time of a poll begins with its multicall",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.apply",
    replacement=apply,
    findings=("laws/multicall/multicall",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=0)
multicall(dom1.1, count=2)
sched.yield(dom1.1)
sched.poll(dom1.1, ports=[r0], count=1, timeout=0x8000)
""",
)
