"""Domain 2 gets a vCPU more than its world says."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.start_processors


def replacement(hv):
    boot.add_vcpu(hv, hv.domains[2])
    ORIGINAL(hv)


BUG = Bug(
    name="boot-one-vcpu-more",
    replaces="hvfuzz.hypervisor.core.boot:start_processors",
    replacement=replacement,
    findings=("exits/control/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
