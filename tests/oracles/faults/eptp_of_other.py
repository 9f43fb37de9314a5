"""The kicked vCPU runs on the tables of the next domain."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    v = hv.domains[self.domain].vcpus[self.vcpu]
    hv.scheduler.wake(v)
    v.eptp = hv.domains[2].stage2.eptp


BUG = Bug(
    name="eptp-of-other",
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
