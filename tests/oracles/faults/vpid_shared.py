"""A woken vCPU gets the VPID of vCPU 0 of its domain."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    v = hv.domains[self.domain].vcpus[self.vcpu]
    hv.scheduler.wake(v)
    v.vpid = hv.domains[self.domain].vcpus[0].vpid


BUG = Bug(
    name="vpid-shared",
    replaces="hvfuzz.hypervisor.hypercalls.sched:WakeVcpu.apply",
    replacement=replacement,
    findings=("principal/state/sched.kick",),
    trigger="""\
# hvp 1
world pair
sched.block(dom1.1)
sched.kick(dom1, vcpu=1)
""",
)
