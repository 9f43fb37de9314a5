"""Every domain is a control domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.plant_canaries


def replacement(hv, domain, ram_pages):
    ORIGINAL(hv, domain, ram_pages)
    domain.privileged = True


BUG = Bug(
    name="boot-all-privileged",
    replaces="hvfuzz.hypervisor.core.boot:plant_canaries",
    replacement=replacement,
    findings=("specification/privilege/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
