"""All that wait are woken."""

from hvfuzz.bugs import Bug


def replacement(self, vcpus, port):
    for v in vcpus:
        if v.runnable == 1 or self.polls_on(v, port):
            self.wake(v)


BUG = Bug(
    name="wakes-all",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.event",
    replacement=replacement,
    findings=("specification/vcpu/event.send",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
r1 = event.bind(dom2, remote=dom1, port=r0)
sched.block(dom1)
sched.block(dom1.1)
event.send(dom2, port=r1)
""",
)
