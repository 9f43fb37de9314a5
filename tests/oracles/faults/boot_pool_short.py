"""Domain 1 gets a table page less than its world says."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.plant_canaries


def replacement(hv, domain, ram_pages):
    ORIGINAL(hv, domain, ram_pages)
    if domain.id == 1:
        hv.domains[0].pool.append(domain.pool.pop())


BUG = Bug(
    name="boot-pool-short",
    replaces="hvfuzz.hypervisor.core.boot:plant_canaries",
    replacement=replacement,
    findings=("specification/pool/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
