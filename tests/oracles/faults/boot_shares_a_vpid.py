"""All vCPUs of a domain, and the first of each other domain, have one VPID."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.add_vcpu


def replacement(hv, domain):
    vcpu = ORIGINAL(hv, domain)
    vcpu.vpid = vcpu.index + 1
    return vcpu


BUG = Bug(
    name="boot-shares-a-vpid",
    replaces="hvfuzz.hypervisor.core.boot:add_vcpu",
    replacement=replacement,
    findings=("exits/control/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
