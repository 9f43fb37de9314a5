"""The tables of a guest map the first pages of its kernel for user code."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.plant_canaries


def replacement(hv, domain, ram_pages):
    ORIGINAL(hv, domain, ram_pages)
    place = boot.guest_address(domain, 4, 0)
    hv.machine.memory.store64(place, hv.machine.memory.load64(place) | 4)


BUG = Bug(
    name="boot-user-reaches-the-kernel",
    replaces="hvfuzz.hypervisor.core.boot:plant_canaries",
    replacement=replacement,
    findings=("secrets/residue/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
