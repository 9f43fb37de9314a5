"""Frames exchanged for fresh ones: `memory.exchange`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import COUNT, GfnArray, Index
from hvfuzz.abi.limits import EXCHANGE, MAX_GFN
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import PAGE_WORK, Effect, Refused, Step
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.page_checks import BAD_RANGE, POOL_TOO_SMALL, release_refusal, superpages_cut
from hvfuzz.hypervisor.memory.table_tree import leaf_frame

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


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
        """Checks, in order: count, `gfns` readable, `out` writable, each page, free frames, table pages."""
        # Without this check, the fetch of the arrays could take unbounded time before the first preemption point.
        if not 0 < self.count <= EXCHANGE:
            return Refused(Status.INVALID, "count")
        elements = self.elements(hv, vcpu)
        if elements is None:
            return Refused(Status.FAULT, "gfns unreadable")
        # Without its range check, a guest could have the hypervisor overwrite its own memory (XSA-212).
        if not self.out_ok(hv, vcpu):
            return Refused(Status.FAULT, "out not writable")
        gfns = struct.unpack(f"<{len(elements) // 8}Q", elements)
        refused = self._refusal(hv, caller, gfns)
        if refused is not None:
            return refused
        frames = hv.allocator.choose(len(gfns))
        if frames is None:
            return Refused(Status.NO_MEMORY, "too few free frames")
        if caller.stage2.pool.lacks(superpages_cut(caller, gfns)):
            return POOL_TOO_SMALL
        steps = self._steps(caller, gfns, frames)
        return Effect((*steps, PutGuest(vcpu.id, self.out_address, elements)), len(gfns))

    @property
    def out_address(self) -> int:
        """Guest address of the first element of `out` that is written."""
        return self.out + 8 * self.start

    def elements(self, hv: Hypervisor, vcpu: VCpu) -> bytes | None:
        """Fetch the selected elements of `gfns`; None if they are not readable."""
        if not self.array_ok(self.gfns):
            return None
        return guest_access.raw_copy_from_guest(hv, vcpu, self.gfns + 8 * self.start, 8 * self.count)

    def out_ok(self, hv: Hypervisor, vcpu: VCpu) -> bool:
        """Whether the selected elements of `out` are writable."""
        return self.array_ok(self.out) and guest_access.raw_writable(hv, vcpu, self.out_address, 8 * self.count)

    def array_ok(self, base: int) -> bool:
        """Whether a guest may name the `count` elements from element `start` on of the array at `base`.

        This checks exactly the accessed range: an array that begins in guest memory can leave it before element
        `start`, which Xen did not check (XSA-212).
        """
        return guest_access.guest_range_ok(base + 8 * self.start, 8 * self.count)

    def _refusal(self, hv: Hypervisor, caller: Domain, gfns: Sequence[int]) -> Refused | None:
        seen: set[int] = set()
        for gfn in gfns:
            if gfn >= MAX_GFN:
                return BAD_RANGE
            # Without this check, the second exchange of a page would free its frame again.
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


class ExchangePage(NamedTuple):
    """Map `gfn` of `domain` to the free frame `new`, keeping its rights, and free its frame `old`."""

    domain: int
    gfn: int
    old: int
    new: int

    @property
    def work(self) -> int:
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Replace the frame in stage 2 and flush; only then scrub and free the old one."""
        hv.allocator.take(self.new, self.domain, FrameState.OWNED)
        if not hv.domains[self.domain].stage2.replace(self.gfn, self.new):
            raise HostBug("no table page for a split in a checked exchange")
        hv.allocator.free_page(self.old)


class PutGuest(NamedTuple):
    """Write `data` at `gva` in the address space of `vcpu`, a range that the check found writable."""

    vcpu: int
    gva: int
    data: bytes

    def apply(self, hv: Hypervisor) -> None:
        """Write the data; a failure is ignored: the guest may have exchanged its own page tables in this call."""
        guest_access.raw_copy_to_guest(hv, hv.machine.vcpus[self.vcpu], self.gva, self.data)
