"""Port I/O of domain 1 does not exit, so the guest reaches the ports of the machine."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.add_vcpu


def replacement(hv, domain):
    vcpu = ORIGINAL(hv, domain)
    if domain.id == 1:
        vcpu.vmcs.intercepts &= ~(1 << 30)
    return vcpu


BUG = Bug(
    name="boot-intercepts-no-port",
    replaces="hvfuzz.hypervisor.core.boot:add_vcpu",
    replacement=replacement,
    findings=("exits/control/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
