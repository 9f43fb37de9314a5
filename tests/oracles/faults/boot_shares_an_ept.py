"""Domain 2 runs on the tables of domain 1."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.add_vcpu


def replacement(hv, domain):
    vcpu = ORIGINAL(hv, domain)
    if domain.id == 2:
        vcpu.eptp = hv.domains[1].stage2.eptp
    return vcpu


BUG = Bug(
    name="boot-shares-an-ept",
    replaces="hvfuzz.hypervisor.core.boot:add_vcpu",
    replacement=replacement,
    findings=("exits/control/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
