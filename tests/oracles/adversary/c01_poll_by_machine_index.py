"""A poll puts to sleep the vCPU of the machine that has the caller's number within its domain.

The index of a vCPU in its domain is used as an index of all vCPUs. So a guest puts the control domain's vCPU to sleep,
on ports of its own numbering, for as long as it likes: it stops the domain that manages the host.

In the trigger dom1 polls with an endless time-out: dom0 does not run any more, and dom1 goes on.
"""

from hvfuzz.bugs import Bug


def apply(self, hv):
    """Stop the vCPU with this number."""
    hv.scheduler.poll(hv.machine.vcpus[self.vcpu], self.ports, self.timeout)


BUG = Bug(
    name="c01-poll-by-machine-index",
    title="sched.poll stops a vCPU of another domain: the index in the domain is taken for that in the machine",
    replaces="hvfuzz.hypervisor.hypercalls.sched:PollPorts.apply",
    replacement=apply,
    findings=("specification/vcpu/sched.poll",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
sched.poll(dom1, ports=[r0], count=1, timeout=0xffffffffffff)
pause(dom0)
pause(dom1)
""",
)
