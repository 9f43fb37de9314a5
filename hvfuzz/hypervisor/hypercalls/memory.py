"""The caller's memory: calls that add and remove pages, set their rights, or exchange their frames."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

from hvfuzz.abi.declaration import Since, hypercall
from hvfuzz.abi.kinds import COUNT, RIGHTS, Flags, GfnArg, GfnArray, Index, Order
from hvfuzz.abi.limits import EXCHANGE, LARGE_ORDER, MAX_GFN, POPULATE, POPULATE_LARGE, RANGE
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import PREEMPTION_QUOTA, Effect, Refused, Step
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.hypervisor.memory.page_checks import (
    BAD_RANGE,
    POOL_TOO_SMALL,
    page_refusal,
    range_ok,
    release_refusal,
    superpages_cut,
)
from hvfuzz.hypervisor.memory.steps import (
    ExchangePage,
    PopulateBlock,
    PopulatePage,
    ProtectRange,
    PutGuest,
    RemoveBlock,
    RemovePage,
)
from hvfuzz.hypervisor.memory.table_tree import BLOCK_LEVEL, BLOCK_PAGES, EXECUTE, READ, WRITE, leaf_frame

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

TOP_DOWN = 1
POPULATE_FLAGS = TOP_DOWN
PAGE_RIGHTS = (READ, READ | WRITE, READ | EXECUTE, READ | WRITE | EXECUTE)


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
        """The arguments, then what is there already, free frames, and table pages."""
        if self.order not in (0, LARGE_ORDER):
            return Refused(Status.INVALID, "order")
        if self.flags & ~POPULATE_FLAGS:
            return Refused(Status.INVALID, "flags")
        large = self.order == LARGE_ORDER
        pages = self.count << self.order
        if not 0 < self.count <= (POPULATE_LARGE if large else POPULATE):
            return Refused(Status.INVALID, "count")
        if self.first & (1 << self.order) - 1 or self.first + pages > MAX_GFN:
            return BAD_RANGE
        if caller.stage2.any_present(self.first, pages):
            return Refused(Status.EXISTS, "gfn present")
        top_down = bool(self.flags & TOP_DOWN)
        if large:
            return self._blocks(hv, caller, pages, top_down)
        frames = hv.allocator.choose(self.count, top_down=top_down)
        if frames is None:
            return Refused(Status.NO_MEMORY, "too few free frames")
        gfns = range(self.first, self.first + pages)
        if caller.stage2.tables_needed(gfns) > len(caller.pool):
            return POOL_TOO_SMALL
        number = caller.id
        steps = tuple(PopulatePage(number, gfn, hfn) for gfn, hfn in zip(gfns, frames, strict=True))
        return Effect(steps, self.count)

    def _blocks(self, hv: Hypervisor, caller: Domain, pages: int, top_down: bool) -> Effect | Refused:
        blocks = hv.allocator.choose_blocks(self.count, top_down=top_down)
        if blocks is None:
            return Refused(Status.NO_MEMORY, "too few free blocks")
        gfns = range(self.first, self.first + pages, BLOCK_PAGES)
        if caller.stage2.tables_needed(gfns, BLOCK_LEVEL) > len(caller.pool):
            return POOL_TOO_SMALL
        steps = tuple(PopulateBlock(caller.id, gfn, hfn) for gfn, hfn in zip(gfns, blocks, strict=True))
        return Effect(steps, self.count)


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
        """The range, each page in order, then table pages."""
        if not range_ok(self.first, self.count, RANGE):
            return BAD_RANGE
        for gfn, entry, level in caller.stage2.leaves(self.first, self.count):
            refused = release_refusal(hv, caller, gfn, entry, level)
            if refused is not None:
                return refused
        steps = removal_steps(caller, self.first, self.count)
        return POOL_TOO_SMALL if steps is None else Effect(steps, self.count)


def removal_steps(caller: Domain, first: int, count: int) -> tuple[Step, ...] | None:
    """The steps that free the caller's pages of a checked range; None if the pool has too few pages for the splits."""
    stage2 = caller.stage2
    if len(stage2.blocks_cut(first, count)) > len(caller.pool):
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


@hypercall(
    0x12,
    result="count",
    errors=(Status.INVALID, Status.NOT_PRESENT, Status.NOT_OWNER, Status.NO_POOL),
    long=True,
)
class Protect:
    """Set the rights of the `count` pages (at most 512) from `first` on to R, RW, RX or RWX.

    A large page that lies only partly in the range, and has other rights, is split, which takes a table page. If an
    aligned range of 512 pages with consecutive frames gets equal rights by the call, a large page replaces their table,
    which returns to the pool.

    - `INVALID`: `count` is 0 or above 512; the range exceeds `MAX_GFN`; `rights` has any other value.
    - `NOT_PRESENT`, `NOT_OWNER`, for each page in order: it is absent; its frame belongs to another domain.
    - `NO_POOL`: the pool has too few pages for the splits.
    """

    first: GfnArg
    count: Annotated[int, COUNT.trying(RANGE, RANGE + 1)]
    rights: Annotated[int, RIGHTS.trying(*PAGE_RIGHTS)]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The range and the rights, each page in order, then table pages."""
        if not range_ok(self.first, self.count, RANGE):
            return BAD_RANGE
        if self.rights not in PAGE_RIGHTS:
            return Refused(Status.INVALID, "rights")
        for gfn, entry, level in caller.stage2.leaves(self.first, self.count):
            refused = page_refusal(hv, caller, gfn, entry, level)
            if refused is not None:
                return refused
        if len(caller.stage2.blocks_cut(self.first, self.count, self.rights)) > len(caller.pool):
            return POOL_TOO_SMALL
        return Effect(self._steps(caller), self.count)

    def _steps(self, caller: Domain) -> tuple[Step, ...]:
        """A step for each large leaf that lies in the range, and for each quota of small ones."""
        steps: list[Step] = []
        gfn, end = self.first, self.first + self.count
        while gfn < end:
            block_end = (gfn & -BLOCK_PAGES) + BLOCK_PAGES
            _, level, _ = caller.stage2.lookup(gfn)
            if level == BLOCK_LEVEL and gfn % BLOCK_PAGES == 0 and block_end <= end:
                after = block_end
            else:
                after = min(gfn + PREEMPTION_QUOTA, block_end, end)
            steps.append(ProtectRange(caller.id, gfn, after - gfn, self.rights))
            gfn = after
        return tuple(steps)


@hypercall(
    0x13,
    result="pages exchanged",
    errors=(
        Status.INVALID,
        Status.FAULT,
        Status.NOT_PRESENT,
        Status.NOT_OWNER,
        Status.BUSY,
        Status.NO_MEMORY,
        Status.NO_POOL,
    ),
    since=2,
    long=True,
)
class Exchange:
    """Exchange the frames of listed pages for fresh, zeroed frames. The pages keep their rights. The list is the
    `count` (at most 64) guest frame numbers of `gfns` from index `start` on, so that a guest can resume a list. The
    call writes these numbers to the same elements of `out`, or nothing if the exchange made `out` inaccessible.

    - `INVALID`: `count` is 0 or above 64.
    - `FAULT`: the elements of `gfns` are not readable, or those of `out` are not writable.
    - `INVALID`, `NOT_PRESENT`, `NOT_OWNER`, `BUSY`, for each element in order: it is not below `MAX_GFN`, or occurs
      twice; otherwise as for `memory.decrease`.
    - `NO_MEMORY`: too few frames are free.
    - `NO_POOL`: the pool has too few pages to split the large pages that contain a listed page.
    """

    gfns: GfnArray
    out: GfnArray
    count: Annotated[int, COUNT.trying(EXCHANGE, EXCHANGE + 1)]
    start: Index

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The counts and both arrays, each page in order, free frames, then table pages."""
        if not 0 < self.count <= EXCHANGE:
            return Refused(Status.INVALID, "count")
        elements = self.elements(hv, vcpu)
        if elements is None:
            return Refused(Status.FAULT, "gfns unreadable")
        if not self.out_ok(hv, vcpu):
            return Refused(Status.FAULT, "out not writable")
        gfns = struct.unpack(f"<{len(elements) // 8}Q", elements)
        refused = self._refusal(hv, caller, gfns)
        if refused is not None:
            return refused
        frames = hv.allocator.choose(len(gfns))
        if frames is None:
            return Refused(Status.NO_MEMORY, "too few free frames")
        if superpages_cut(caller, gfns) > len(caller.pool):
            return POOL_TOO_SMALL
        steps = self._steps(caller, gfns, frames)
        return Effect((*steps, PutGuest(vcpu.id, self.out_address, elements)), len(gfns))

    @property
    def out_address(self) -> int:
        """The address of the first element of `out` that is written."""
        return self.out + 8 * self.start

    def elements(self, hv: Hypervisor, vcpu: VCpu) -> bytes | None:
        """The elements of `gfns` that count, fetched; None if they are not readable."""
        if not self.array_ok(self.gfns):
            return None
        return guest_access.raw_copy_from_guest(hv, vcpu, self.gfns + 8 * self.start, 8 * self.count)

    def out_ok(self, hv: Hypervisor, vcpu: VCpu) -> bool:
        """Whether the elements of `out` that count can be written."""
        return self.array_ok(self.out) and guest_access.raw_writable(hv, vcpu, self.out_address, 8 * self.count)

    def array_ok(self, base: int) -> bool:
        """Whether a guest may name the `count` elements from `start` on of the array at `base`.

        Exactly what is accessed is checked: an array that starts in guest memory need not lie there from
        element `start` on.
        """
        return guest_access.guest_range_ok(base + 8 * self.start, 8 * self.count)

    def _refusal(self, hv: Hypervisor, caller: Domain, gfns: Sequence[int]) -> Refused | None:
        seen: set[int] = set()
        for gfn in gfns:
            if gfn >= MAX_GFN:
                return BAD_RANGE
            if gfn in seen:
                return Refused(Status.INVALID, "gfn repeated")
            seen.add(gfn)
            entry, level, _ = caller.stage2.lookup(gfn)
            refused = release_refusal(hv, caller, gfn, entry, level)
            if refused is not None:
                return refused
        return None

    @staticmethod
    def _steps(caller: Domain, gfns: Sequence[int], frames: Sequence[int]) -> Iterable[Step]:
        for gfn, new in zip(gfns, frames, strict=True):
            entry, level, _ = caller.stage2.lookup(gfn)
            yield ExchangePage(caller.id, gfn, leaf_frame(entry, level, gfn), new)
