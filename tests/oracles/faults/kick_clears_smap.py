"""A vCPU that is kicked has lost SMEP and SMAP: its CR4 is that of power-on."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    target = hv.domains[self.domain].vcpus[self.vcpu]
    hv.scheduler.wake(target)
    target.cr4 = 0x20


BUG = Bug(
    name="kick-clears-smap",
    replaces="hvfuzz.hypervisor.hypercalls.sched:WakeVcpu.apply",
    replacement=replacement,
    findings=("principal/state/sched.kick",),
    trigger="""\
# hvp 1
world pair
mov_cr(dom1.1, register=CR4, value=0x300020)
hlt(dom1.1)
sched.kick(dom1, vcpu=1)
""",
)
