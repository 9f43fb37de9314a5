"""The kicked vCPU gets CR3 and ring of the kicker."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    v = hv.domains[self.domain].vcpus[self.vcpu]
    hv.scheduler.wake(v)
    v.cr3 = 0x5000
    v.cpl = 0


BUG = Bug(
    name="cr3-of-other",
    replaces="hvfuzz.hypervisor.hypercalls.sched:WakeVcpu.apply",
    replacement=replacement,
    findings=("principal/state/sched.kick",),
    trigger="""\
# hvp 1
world pair
sched.block(dom1.1)
sched.kick(dom1, vcpu=1)
load(dom1.1, gva=DIRECT+0x10000, size=8)
""",
)
