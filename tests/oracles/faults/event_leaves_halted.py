"""An event does not end HLT: the vCPU sleeps on although its event is pending."""

from hvfuzz.bugs import Bug


def replacement(self, vcpus, port):
    for vcpu in vcpus:
        if vcpu.runnable == 1 or self.polls_on(vcpu, port):
            self.wake(vcpu)
            return


BUG = Bug(
    name="event-leaves-halted",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.event",
    replacement=replacement,
    findings=("specification/vcpu/event.send",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom2, remote=dom1)
r1 = event.bind(dom1, remote=dom2, port=r0)
hlt(dom2)
event.send(dom1, port=r1)
""",
)
