"""`sched.kick` returns how many buckets of ports all domains have in use."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect


def check(self, hv, caller, vcpu):
    """Kick, and tell how many ports the machine has in use."""
    if self.vcpu >= len(caller.vcpus):
        return Effect()
    used = sum(bucket is not None for domain in hv.domains for bucket in domain.buckets)
    return Effect((), used)


BUG = Bug(
    name="buckets-of-all",
    title="a result counts the buckets of ports of all domains",
    replaces="hvfuzz.hypervisor.hypercalls.sched:Kick.check",
    replacement=check,
    findings=("noninterference/result/sched.kick",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
event.alloc(dom2, remote=dom0)
sched.kick(dom1, vcpu=0)
""",
)
