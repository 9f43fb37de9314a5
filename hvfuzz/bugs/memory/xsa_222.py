"""XSA-222 / CVE-2017-10918: a page is freed although its removal from stage 2 failed.

Cause: `guest_remove_page` ignored the result of the removal. If the page was part of a superpage, and the domain's
paging pool had no page left for the split, the removal failed. The page was freed anyway, and the guest kept its
mapping of a page that could become another domain's memory.

Scaled: a domain's paging pool has 16 pages here.
"""

from typing import NamedTuple

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.domains import Domain
from hvfuzz.hypervisor.core.effects import PAGE_WORK, Step
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.memory.table_tree import leaf_frame


class FreePage(NamedTuple):
    """Step that unmaps `gfn` of `domain` and frees its frame even if the unmapping failed."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Unmap, ignore the result, free."""
        hv.domains[self.domain].stage2.unmap(self.gfn)
        hv.allocator.free_page(self.hfn)


def removal_steps(caller: Domain, first: int, count: int) -> tuple[Step, ...] | None:
    """Steps that free the pages, without checking that there are table pages for the splits."""
    steps: list[Step] = []
    for gfn in range(first, first + count):
        entry, level, _ = caller.stage2.lookup(gfn)
        steps.append(FreePage(caller.id, gfn, leaf_frame(entry, level, gfn)))
    return tuple(steps)


BUG = Bug(
    name="xsa-222",
    advisory="XSA-222, CVE-2017-10918",
    title="a page is freed although its removal from stage 2 failed for lack of a table page",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:removal_steps",
    replacement=removal_steps,
    findings=(
        "ownership/free/memory.decrease",
        "recount/free/memory.decrease",
        "recount/maps/memory.decrease",
        "specification/page/memory.decrease",
        "stale/leaf/memory.decrease",
    ),
    difficulty=4,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x400, count=1, order=9)
device.dma_map(dom1, iova=0x0, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x80000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0xc0000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x100000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x140000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x180000000, gfn=0x40, count=1, rights=R)
device.dma_map(dom1, iova=0x1c0000000, gfn=0x40, count=1, rights=R)
memory.decrease(dom1, first=0x400, count=1)
""",
)
