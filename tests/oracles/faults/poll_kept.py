"""The poll of a vCPU that is woken is kept."""

from hvfuzz.bugs import Bug


def replacement(self, vcpu):
    if not vcpu.runnable:
        return False
    vcpu.runnable = 0
    return True


BUG = Bug(
    name="poll-kept",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.wake",
    replacement=replacement,
    findings=("specification/vcpu/event.send",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
r1 = event.bind(dom2, remote=dom1, port=r0)
sched.poll(dom1, ports=[r0], count=1, timeout=0x100000)
sched.kick(dom1.1, vcpu=0)
sched.block(dom1.1)
event.send(dom2, port=r1)
""",
)
