"""Boot leaves the pages of a pool without the mark by which a use before they are zeroed is seen."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState


def replacement(hv, domain, pages):
    for _ in range(pages):
        domain.pool.append(hv.allocator.alloc_page(domain.id, FrameState.POOL))


BUG = Bug(
    name="boot-pool-unmarked",
    replaces="hvfuzz.hypervisor.core.boot:fill_pool",
    replacement=replacement,
    findings=("secrets/residue/boot",),
    trigger="""\
# hvp 1
world pair
pause(dom1)
""",
)
