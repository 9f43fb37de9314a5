"""A vCPU goes on after a triple fault."""

from hvfuzz.bugs import Bug


def replacement(self, vcpu):
    pass


BUG = Bug(
    name="triple-fault-goes-on",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.stop",
    replacement=replacement,
    findings=("specification/change/int",),
    trigger="""\
# hvp 1
world pair
lidt(dom1, gva=DIRECT+0x50000, limit=0xfff)
int(dom1, vector=3)
""",
)
