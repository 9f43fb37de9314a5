"""The kernel of each guest begins with CR0.WP clear."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.add_vcpu


def replacement(hv, domain):
    vcpu = ORIGINAL(hv, domain)
    vcpu.cr0 &= ~(1 << 16)
    return vcpu


BUG = Bug(
    name="boot-without-write-protect",
    replaces="hvfuzz.hypervisor.core.boot:add_vcpu",
    replacement=replacement,
    findings=("exits/registers/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
