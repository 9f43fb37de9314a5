"""Each exit looks at the polling vCPUs of all domains, and the clock shows it."""

from hvfuzz.bugs import Bug


def expire(self, vcpus):
    """Wake the vCPUs whose deadline has passed, and take time for each that polls."""
    now = self.clock.cycles
    self.clock.cycles += 40 * len(self.polls)
    for vcpu_id in [vcpu_id for vcpu_id, poll in self.polls.items() if poll.deadline <= now]:
        self.wake(vcpus[vcpu_id])


BUG = Bug(
    name="time-by-waiting",
    title="an exit takes longer while vCPUs of other domains poll",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.expire",
    replacement=expire,
    findings=("noninterference/time/cpuid",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom2, remote=dom0)
sched.poll(dom2.1, ports=[r0], count=1, timeout=1000000)
cpuid(dom1, leaf=0)
""",
)
