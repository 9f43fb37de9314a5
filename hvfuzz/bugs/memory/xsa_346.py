"""XSA-346 / CVE-2020-27671: a batch of changes frees frames before the flush at its end.

Cause: to make large batches of page table changes cheap, Xen suppressed the flush after each change and flushed once
after the batch. But the frames displaced by a change were freed at once, while their old translations could still be
used.

Simplified: the batch is an exchange of pages, and the stale translations are those of the CPU, since a frame that a
device can reach cannot be exchanged here.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.domains import Domain
from hvfuzz.hypervisor.core.effects import NO_WORK, PAGE_WORK, Step
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import ADDRESS, BLOCK_LEVEL, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT


class ExchangeUnflushed(NamedTuple):
    """Like the step ExchangePage, but without its flush."""

    domain: int
    gfn: int
    old: int
    new: int

    @property
    def work(self) -> int:
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Map the new frame instead of the old one, and free the old one."""
        hv.allocator.take(self.new, self.domain, FrameState.OWNED)
        stage2 = hv.domains[self.domain].stage2
        entry, level, address = stage2.lookup(self.gfn)
        if level == BLOCK_LEVEL:
            stage2.split(self.gfn)
            entry, level, address = stage2.lookup(self.gfn)
        hv.frames.add_map(self.new)
        hv.host.write64(address, entry & ~ADDRESS | self.new << PAGE_SHIFT)
        hv.frames.drop_map(self.old)
        hv.allocator.free_page(self.old)


class FlushAll(NamedTuple):
    """Step that flushes once, after the batch."""

    domain: int

    @property
    def work(self) -> int:
        return NO_WORK

    def apply(self, hv: Hypervisor) -> None:
        hv.domains[self.domain].stage2.flush()


def exchange_steps(caller: Domain, gfns: Sequence[int], frames: Sequence[int]) -> Iterable[Step]:
    """Steps for all exchanges, then one flush."""
    for gfn, new in zip(gfns, frames, strict=True):
        entry, level, _ = caller.stage2.lookup(gfn)
        yield ExchangeUnflushed(caller.id, gfn, leaf_frame(entry, level, gfn), new)
    yield FlushAll(caller.id)


BUG = Bug(
    name="xsa-346",
    advisory="XSA-346, CVE-2020-27671",
    title="a batch of exchanges frees frames before its single flush at the end",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:Exchange._steps",
    replacement=exchange_steps,
    findings=("stale/tlb/memory.exchange",),
    difficulty=4,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
load(dom1, gva=0xffff880000040000, size=8)
memory.exchange(dom1, gfns=[0x40], out=[0], count=1, start=0)
""",
)
