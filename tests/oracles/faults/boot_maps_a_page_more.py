"""Domain 2 has one page more than its world says, which is free."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot
from hvfuzz.hypervisor.memory.frames import FrameState

ORIGINAL = boot.plant_canaries


def replacement(hv, domain, ram_pages):
    ORIGINAL(hv, domain, ram_pages)
    if domain.id == 2:
        domain.stage2.map(ram_pages, hv.allocator.alloc_page(domain.id, FrameState.OWNED), 7)


BUG = Bug(
    name="boot-maps-a-page-more",
    replaces="hvfuzz.hypervisor.core.boot:plant_canaries",
    replacement=replacement,
    findings=("specification/page/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
