"""A vCPU that is kicked finds the kicker's status in its RAX (the wrong vCPU's registers are written)."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    target = hv.domains[self.domain].vcpus[self.vcpu]
    hv.scheduler.wake(target)
    target.regs[0] = 0x1234
    target.regs[3] = 0x5678


BUG = Bug(
    name="kick-writes-registers",
    replaces="hvfuzz.hypervisor.hypercalls.sched:WakeVcpu.apply",
    replacement=replacement,
    findings=("principal/injection/sched.kick",),
    trigger="""\
# hvp 1
world pair
sched.block(dom1.1)
sched.kick(dom1, vcpu=1)
cpuid(dom1.1, leaf=0)
""",
)
