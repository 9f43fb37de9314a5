"""Pages come and go: `memory.populate`, and `memory.decrease`, which undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.declaration import Since, hypercall
from hvfuzz.abi.kinds import COUNT, Flags, GfnArg, Order
from hvfuzz.abi.limits import LARGE_ORDER, MAX_GFN, POPULATE, POPULATE_LARGE, RANGE
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import PAGE_WORK, Effect, Refused, Step
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.core.work_quota import PREEMPTION_QUOTA
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.page_checks import BAD_RANGE, POOL_TOO_SMALL, range_ok, release_refusal
from hvfuzz.hypervisor.memory.table_tree import BLOCK_LEVEL, BLOCK_PAGES, RIGHTS, leaf_frame

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


TOP_DOWN = 1


POPULATE_FLAGS = TOP_DOWN


@hypercall(
    0x10,
    result="count",
    errors=(Status.INVALID, Status.EXISTS, Status.NO_MEMORY, Status.NO_POOL),
    long=True,
)
class Populate:
    """Map fresh, zeroed frames at the absent guest frame numbers from `first` on, with rights RWX.

    The range is `count` pages (order 0, at most 64) or `count` aligned blocks of 512 pages (order 9, at most 2).
    TOP_DOWN is a hint to take frames from the other end of host memory.

    - `INVALID`: `order` or `flags` has any other value; `count` is 0 or too large; `first` is not aligned to a block;
      the range exceeds `MAX_GFN`.
    - `EXISTS`: a page of the range is present.
    - `NO_MEMORY`: too few frames, or aligned blocks of frames, are free.
    - `NO_POOL`: the pool has too few pages for new tables.
    """

    first: GfnArg
    count: Annotated[int, COUNT.trying(POPULATE, POPULATE + 1, POPULATE_LARGE, POPULATE_LARGE + 1)]
    order: Order
    flags: Annotated[int, Flags("TOP_DOWN"), Since(2)] = 0

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: arguments, gfns absent, free frames, table pages."""
        if self.order not in (0, LARGE_ORDER):
            return Refused(Status.INVALID, "order")
        if self.flags & ~POPULATE_FLAGS:
            return Refused(Status.INVALID, "flags")
        large = self.order == LARGE_ORDER
        pages = self.count << self.order
        # Bounds the work of the check. In C, an unchecked count could overflow when shifted.
        if not 0 < self.count <= (POPULATE_LARGE if large else POPULATE):
            return Refused(Status.INVALID, "count")
        if self.first & (1 << self.order) - 1 or self.first + pages > MAX_GFN:
            return BAD_RANGE
        # Without this check, the displaced frames would stay owned, but mapped nowhere.
        if caller.stage2.any_present(self.first, pages):
            return Refused(Status.EXISTS, "gfn present")
        top_down = bool(self.flags & TOP_DOWN)
        if large:
            return self._blocks(hv, caller, pages, top_down)
        frames = hv.allocator.choose(self.count, top_down=top_down)
        if frames is None:
            return Refused(Status.NO_MEMORY, "too few free frames")
        gfns = range(self.first, self.first + pages)
        if caller.stage2.pool.lacks(caller.stage2.tables_needed(gfns)):
            return POOL_TOO_SMALL
        number = caller.id
        steps = tuple(PopulatePage(number, gfn, hfn) for gfn, hfn in zip(gfns, frames, strict=True))
        return Effect(steps, self.count)

    def _blocks(self, hv: Hypervisor, caller: Domain, pages: int, top_down: bool) -> Effect | Refused:
        blocks = hv.allocator.choose_blocks(self.count, top_down=top_down)
        if blocks is None:
            return Refused(Status.NO_MEMORY, "too few free blocks")
        gfns = range(self.first, self.first + pages, BLOCK_PAGES)
        if caller.stage2.pool.lacks(caller.stage2.tables_needed(gfns, BLOCK_LEVEL)):
            return POOL_TOO_SMALL
        steps = tuple(PopulateBlock(caller.id, gfn, hfn) for gfn, hfn in zip(gfns, blocks, strict=True))
        return Effect(steps, self.count)


class PopulatePage(NamedTuple):
    """Map the absent `gfn` of `domain` to the free frame `hfn`, with all rights."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Take the frame, then map it."""
        hv.allocator.take(self.hfn, self.domain, FrameState.OWNED)
        hv.domains[self.domain].stage2.map(self.gfn, self.hfn, RIGHTS)


class PopulateBlock(NamedTuple):
    """Map the 512 absent pages from `gfn` on to the free block at `hfn`, by one large leaf with all rights."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        """A whole quota: 512 frames are scrubbed or mapped, with a preemption point on either side."""
        return PREEMPTION_QUOTA

    def apply(self, hv: Hypervisor) -> None:
        """Take the block, then map it."""
        hv.allocator.take_block(self.hfn, self.domain, FrameState.OWNED)
        hv.domains[self.domain].stage2.map(self.gfn, self.hfn, RIGHTS, block=True)


@hypercall(
    0x11,
    result="count",
    errors=(Status.INVALID, Status.NOT_PRESENT, Status.NOT_OWNER, Status.BUSY, Status.NO_POOL),
    long=True,
)
class Decrease:
    """Give up the `count` pages (at most 512) from `first` on. Their frames become free. A large page that lies only
    partly in the range is split, which takes a table page.

    - `INVALID`: `count` is 0 or above 512; the range exceeds `MAX_GFN`.
    - `NOT_PRESENT`, `NOT_OWNER`, `BUSY`, for each page in order: it is absent; its frame belongs to another domain; its
      frame is granted, or mapped by a grant or for devices.
    - `NO_POOL`: the pool has too few pages for the splits.
    """

    first: GfnArg
    count: Annotated[int, COUNT.trying(RANGE, RANGE + 1)]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: range, each page, table pages for splits."""
        if not range_ok(self.first, self.count, RANGE):
            return BAD_RANGE
        for gfn, entry, level in caller.stage2.leaves(self.first, self.count):
            refused = release_refusal(hv, caller, gfn, entry, level)
            if refused is not None:
                return refused
        steps = removal_steps(caller, self.first, self.count)
        return POOL_TOO_SMALL if steps is None else Effect(steps, self.count)


def removal_steps(caller: Domain, first: int, count: int) -> tuple[Step, ...] | None:
    """The steps that free the pages of a checked range; None if the pool has too few table pages for the splits."""
    stage2 = caller.stage2
    if stage2.pool.lacks(len(stage2.blocks_cut(first, count))):
        return None
    steps: list[Step] = []
    for gfn, entry, level in stage2.leaves(first, count):
        hfn = leaf_frame(entry, level, gfn)
        start = gfn & -BLOCK_PAGES
        if level != BLOCK_LEVEL or start < first or start + BLOCK_PAGES > first + count:
            steps.append(RemovePage(caller.id, gfn, hfn))
        elif gfn == start:
            steps.append(RemoveBlock(caller.id, gfn, hfn))
    return tuple(steps)


class RemovePage(NamedTuple):
    """Unmap `gfn` of `domain`, and free its frame `hfn`."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Unmap and flush, then scrub and free: a frame must not be freed while it is mapped."""
        if not hv.domains[self.domain].stage2.unmap(self.gfn):
            raise HostBug("no table page for a split in a checked removal")
        hv.allocator.free_page(self.hfn)


class RemoveBlock(NamedTuple):
    """Unmap the whole large leaf at `gfn`, and free its 512 frames from `hfn` on."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        """A whole quota: 512 frames are scrubbed or mapped, with a preemption point on either side."""
        return PREEMPTION_QUOTA

    def apply(self, hv: Hypervisor) -> None:
        """Unmap and flush, then scrub and free."""
        hv.domains[self.domain].stage2.unmap_block(self.gfn)
        hv.allocator.free_block(self.hfn)
