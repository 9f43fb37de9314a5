"""What the caller's devices reach: `device.dma_map`, and `device.dma_unmap`, which undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.boot import DEVICES, MMIO_BASE
from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import COUNT, RIGHTS, GfnArg, IovaArg
from hvfuzz.abi.limits import DMA_PAGES, IOVA_HOLE, IOVA_LIMIT
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import PAGE_WORK, Effect, Refused
from hvfuzz.hypervisor.memory.page_checks import ABSENT, BAD_RANGE, NOT_THE_OWNER, POOL_TOO_SMALL, range_ok
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, READ, WRITE, leaf_frame
from hvfuzz.hypervisor.memory.table_tree import RIGHTS as ALL_RIGHTS
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.devices.register_windows import REGISTERS_BASE

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


WINDOWS_GFN = MMIO_BASE >> PAGE_SHIFT
"""Gfn of the register page of device 0; those of the other devices follow in order."""


REGISTERS_FRAME = REGISTERS_BASE >> PAGE_SHIFT
"""Frame number of the registers of device 0; those of the other devices follow in order."""


DMA_RIGHTS = (READ, WRITE, READ | WRITE)


BAD_IOVA = Refused(Status.INVALID, "range of device addresses")


NOT_ITS_DEVICE = Refused(Status.NOT_PERMITTED, "device not assigned to the caller")


MADE_BY_GRANT = Refused(Status.EXISTS, "device page mapped by a grant")


KEPT_BY_FIRMWARE = Refused(Status.NOT_PERMITTED, "device page of a reserved region")


def iova_range_ok(iova: int, count: int) -> bool:
    """Whether `count` is in 1 .. 64, and the pages from device address `iova` on are aligned, within 39 bits and not in
    the hole."""
    end = iova + (count << PAGE_SHIFT)
    if not 0 < count <= DMA_PAGES or iova & PAGE_MASK or end > IOVA_LIMIT:
        return False
    return end <= IOVA_HOLE.start or iova >= IOVA_HOLE.stop


@hypercall(
    0x62,
    result="count",
    errors=(
        Status.INVALID,
        Status.NOT_PRESENT,
        Status.NOT_OWNER,
        Status.NOT_PERMITTED,
        Status.EXISTS,
        Status.NO_POOL,
    ),
    long=True,
)
class DmaMap:
    """Map the caller's pages from `gfn` on at the device addresses from `iova` on, with rights R, W or RW.

    The range is `count` pages (at most 64). The call replaces earlier mappings by `device.dma_map`.

    If `count` is 1 and `gfn` is the register page of a device of the caller, the caller's devices reach these registers
    (peer to peer). The registers of a device can be mapped at one device address at most, and are unmapped when the
    device is taken from the caller.

    - `INVALID`: `count` is 0 or above 64; `iova` is not page-aligned; the range of device pages is not valid; the range
      of pages exceeds `MAX_GFN`; `rights` has any other value.
    - `NOT_PERMITTED`: a device page is at the address of memory that firmware reserves for a device of any domain.
    - `NOT_PERMITTED`, `EXISTS`, for a register page: the device is not assigned to the caller; its registers are mapped
      at another device address.
    - `NOT_PRESENT`, `NOT_OWNER`, `NOT_PERMITTED`, for each other page in order: it is absent; its frame belongs to
      another domain; the caller lacks one of the rights.
    - `EXISTS`: a grant maps one of the device pages.
    - `NO_POOL`: the pool has too few pages for new tables.
    """

    iova: IovaArg
    gfn: GfnArg
    count: Annotated[int, COUNT.trying(DMA_PAGES, DMA_PAGES + 1)]
    rights: Annotated[int, RIGHTS.trying(*DMA_RIGHTS)]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: ranges, rights, reserved pages, each page of memory, each device page, table pages."""
        if not iova_range_ok(self.iova, self.count):
            return BAD_IOVA
        number = self.gfn - WINDOWS_GFN
        window = 0 <= number < DEVICES
        if self.count != 1 if window else not range_ok(self.gfn, self.count, DMA_PAGES):
            return BAD_RANGE
        if self.rights not in DMA_RIGHTS:
            return Refused(Status.INVALID, "rights")
        # Without this check, a guest could redirect a device that firmware set up (XSA-378).
        if hv.reserved and hv.is_reserved(self.iova >> PAGE_SHIFT, self.count):
            return KEPT_BY_FIRMWARE
        frames = []
        if window:
            refused = self.window_refusal(hv, caller, number)
            if refused is not None:
                return refused
            frames.append(REGISTERS_FRAME + number)
        else:
            for gfn, entry, level in caller.stage2.leaves(self.gfn, self.count):
                frame = self.frame(hv, caller, gfn, entry, level)
                if isinstance(frame, Refused):
                    return frame
                frames.append(frame)
        first = self.iova >> PAGE_SHIFT
        pages = range(first, first + self.count)
        runs = caller.dma.runs(first, self.count)
        # Without this check, a guest could displace a grant mapping that its handle still counts.
        if any(entry & ALL_RIGHTS and entry & FOREIGN for _, _, _, entries in runs for entry in entries):
            return MADE_BY_GRANT
        if caller.dma.pool.lacks(caller.dma.tables_needed(pages)):
            return POOL_TOO_SMALL
        steps = tuple(MapDma(caller.id, page, frame, self.rights) for page, frame in zip(pages, frames, strict=True))
        return Effect(steps, self.count)

    def window_refusal(self, hv: Hypervisor, caller: Domain, number: int) -> Refused | None:
        """Why the caller cannot map the registers of device `number`; None if it can."""
        # Without this check, a guest could program a device of another domain by DMA.
        if hv.iommu.domain_of(hv.machine.devices[number].bdf) != caller.id:
            return NOT_ITS_DEVICE
        place = hv.window_of(number)
        # `hv.windows` finds a device's mapping to remove it: a second one would survive its deassignment.
        if place is not None and place != (caller.id, self.iova >> PAGE_SHIFT):
            return Refused(Status.EXISTS, "registers mapped elsewhere")
        return None

    def frame(self, hv: Hypervisor, caller: Domain, gfn: int, entry: int, level: int) -> int | Refused:
        """The frame of the leaf `entry` of `level` at `gfn`, if the caller owns it and has the rights it asks for."""
        if not entry & ALL_RIGHTS:
            return ABSENT
        hfn = leaf_frame(entry, level, gfn)
        # Without this check, a device could reach a granted frame after its mapping is released.
        if hv.frames.owner(hfn) != caller.id:
            return NOT_THE_OWNER
        # Without this check, a guest could write its own read-only pages through a device.
        if self.rights & ~entry:
            return Refused(Status.NOT_PERMITTED, "caller lacks the rights")
        return hfn


class MapDma(NamedTuple):
    """Map device page `page` of `domain` to `hfn` with `rights`, replacing any earlier mapping."""

    domain: int
    page: int
    hfn: int
    rights: int

    @property
    def work(self) -> int:
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Replace the leaf (a displaced one is flushed before its frame is released), and update `hv.windows`."""
        hv.domains[self.domain].dma.map(self.page, self.hfn, self.rights)
        if hv.windows:
            hv.windows.pop((self.domain, self.page), None)
        if self.hfn >= REGISTERS_FRAME:
            hv.windows[self.domain, self.page] = self.hfn - REGISTERS_FRAME


@hypercall(
    0x63,
    result="count",
    errors=(Status.INVALID, Status.NOT_PERMITTED, Status.NOT_PRESENT, Status.EXISTS),
    long=True,
)
class DmaUnmap:
    """Unmap the `count` device pages (at most 64) from `iova` on, which `device.dma_map` mapped.

    - `INVALID`: `count` is 0 or above 64; `iova` is not page-aligned; the range of device pages is not valid.
    - `NOT_PERMITTED`: a device page is at the address of memory that firmware reserves for a device of any domain.
    - `NOT_PRESENT`, `EXISTS`, for each page in order: it is not mapped; a grant maps it.
    """

    iova: IovaArg
    count: Annotated[int, COUNT.trying(DMA_PAGES, DMA_PAGES + 1)]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: range, reserved pages, each device page."""
        if not iova_range_ok(self.iova, self.count):
            return BAD_IOVA
        first = self.iova >> PAGE_SHIFT
        # Without this check, a device that firmware set up could lose its memory (XSA-378).
        if hv.reserved and hv.is_reserved(first, self.count):
            return KEPT_BY_FIRMWARE
        for _, entry, _ in caller.dma.leaves(first, self.count):
            if not entry & ALL_RIGHTS:
                return Refused(Status.NOT_PRESENT, "device page not mapped")
            # Only `grant.unmap` may remove a grant mapping: it also drops the pins.
            if entry & FOREIGN:
                return MADE_BY_GRANT
        return Effect(tuple(UnmapDma(caller.id, page) for page in range(first, first + self.count)), self.count)


class UnmapDma(NamedTuple):
    """Unmap device page `page` of `domain`."""

    domain: int
    page: int

    @property
    def work(self) -> int:
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Remove the leaf, flush, release the frame, and update `hv.windows`."""
        hv.domains[self.domain].dma.unmap(self.page)
        if hv.windows:
            hv.windows.pop((self.domain, self.page), None)
