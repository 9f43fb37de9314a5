"""The memory of a domain holds a word of the host: the key from which canaries are derived."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.plant_canaries


def replacement(hv, domain, ram_pages):
    ORIGINAL(hv, domain, ram_pages)
    hv.machine.memory.store64(boot.guest_address(domain, 0x50, 8), hv.secret)


BUG = Bug(
    name="boot-leaves-a-secret",
    replaces="hvfuzz.hypervisor.core.boot:plant_canaries",
    replacement=replacement,
    findings=("secrets/residue/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
