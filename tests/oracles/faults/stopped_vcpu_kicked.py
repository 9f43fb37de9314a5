"""A vCPU that a triple fault has stopped can be kicked."""

from hvfuzz.bugs import Bug


def replacement(self, vcpu):
    return vcpu.runnable != 0


BUG = Bug(
    name="stopped-vcpu-kicked",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.waits",
    replacement=replacement,
    findings=("specification/result/sched.kick",),
    trigger="""\
# hvp 1
world pair
lidt(dom1, gva=DIRECT+0x50000, limit=0xfff)
int(dom1, vector=3)
sched.kick(dom1.1, vcpu=0)
""",
)
