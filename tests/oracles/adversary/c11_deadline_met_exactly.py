"""A poll whose deadline an exit meets to the cycle does not end.

`<` for `<=`: a deadline is met by an exit that begins in its tick (the contract, "Time"). The vCPU sleeps on until some
other vCPU happens to exit; if none does, it sleeps for ever, though its time is over.

In the trigger an exit of dom2 begins at cycle 16384, the deadline of vCPU 1 of dom1. The instructions before take just
as long as it needs.
"""

from hvfuzz.bugs import Bug


def expire(self, vcpus):
    """Wake the vCPUs whose deadline is over."""
    now = self.clock.cycles
    for vcpu_id in [vcpu_id for vcpu_id, poll in self.polls.items() if poll.deadline < now]:
        self.wake(vcpus[vcpu_id])


BUG = Bug(
    name="c11-deadline-met-exactly",
    title="a deadline that is met to the cycle passes unnoticed",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.expire",
    replacement=expire,
    findings=("specification/change/cpuid",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
sched.poll(dom1.1, ports=[r0], count=1, timeout=1)
load(dom2, gva=DIRECT+0x40000, size=8)
pause(dom2)
"""
    + "invlpg(dom2, gva=0x700000)\n" * 59
    + """\
cpuid(dom2, leaf=0)
pause(dom1.1)
""",
)
