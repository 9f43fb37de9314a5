"""Devices: assignment to domains, memory that devices can access, and validated DMA.

Longer than 300 lines: the docstrings are the reference text of six calls in ABI.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from hvfuzz.abi.boot import DEVICES, MMIO_BASE
from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import COUNT, LENGTH, RIGHTS, DeviceArg, DmaRing, DomainRef, GfnArg, IovaArg
from hvfuzz.abi.limits import BATCH, DMA_LENGTH, DMA_PAGES, IOVA_HOLE, IOVA_LIMIT
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import Effect, Refused, Step
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.hypervisor.memory.page_checks import ABSENT, BAD_RANGE, NOT_THE_OWNER, POOL_TOO_SMALL, range_ok
from hvfuzz.hypervisor.memory.steps import REGISTERS_FRAME, AssignDevice, DeassignDevice, MapDma, SubmitDma, UnmapDma
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, READ, WRITE, leaf_frame
from hvfuzz.hypervisor.memory.table_tree import RIGHTS as ALL_RIGHTS
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.devices.dma_engine import DmaEngine

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

WINDOWS_GFN = MMIO_BASE >> PAGE_SHIFT
"""Guest frame number of the registers of device 0."""
DMA_RIGHTS = (READ, WRITE, READ | WRITE)
HEADER = struct.Struct("<Q")
REQUEST = struct.Struct("<3Q")

NO_SUCH_DEVICE = Refused(Status.NO_DEVICE, "no such device")
NOT_ITS_DEVICE = Refused(Status.NOT_PERMITTED, "device not assigned to the caller")
BAD_IOVA = Refused(Status.INVALID, "range of device addresses")
MADE_BY_GRANT = Refused(Status.EXISTS, "device page mapped by a grant")
KEPT_BY_FIRMWARE = Refused(Status.NOT_PERMITTED, "device page of a reserved region")

Request = tuple[int, int, int]
"""(source, target, length) of one copy."""


# Assignment.


@hypercall(0x60, errors=(Status.NO_DEVICE, Status.NO_DOMAIN, Status.BUSY, Status.NO_POOL), privileged=True)
class Assign:
    """Assign a device to domain `to`. From then on, the device accesses memory through that domain's mappings.

    If firmware reserves memory for the device, the call maps this memory at its own address, with table pages from the
    pool of `to`.

    - `NO_DEVICE`: there is no such device.
    - `NO_DOMAIN`: there is no domain `to`.
    - `BUSY`: the device is assigned.
    - `NO_POOL`: the pool of `to` has too few pages for new tables.
    """

    device: DeviceArg
    to: DomainRef

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The device, the domain, that it has no owner, then table pages."""
        device = hv.device(self.device)
        if device is None:
            return NO_SUCH_DEVICE
        to = hv.resolve(caller, self.to)
        if to is None:
            return Refused(Status.NO_DOMAIN, "to")
        if hv.iommu.domain_of(device.bdf) >= 0:
            return Refused(Status.BUSY, "device assigned")
        if to.dma.tables_needed(hv.reserved.get(device.bdf, ())) > len(to.pool):
            return POOL_TOO_SMALL
        return Effect((AssignDevice(self.device, to.id),))


@hypercall(0x61, errors=(Status.NO_DEVICE, Status.NOT_PRESENT), privileged=True)
class Deassign:
    """Take a device from its domain.

    The call blocks the device's DMA, resets the device, unmaps its registers and its reserved memory, and zeroes that
    memory.

    - `NO_DEVICE`: there is no such device.
    - `NOT_PRESENT`: the device is not assigned.
    """

    device: DeviceArg

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The device, and that it has an owner."""
        device = hv.device(self.device)
        if device is None:
            return NO_SUCH_DEVICE
        if hv.iommu.domain_of(device.bdf) < 0:
            return Refused(Status.NOT_PRESENT, "device not assigned")
        return Effect((DeassignDevice(self.device),))


# What the caller's devices reach.


def iova_range_ok(iova: int, count: int) -> bool:
    """Whether `count` (1 .. 64) pages from device address `iova` on are aligned, in 39 bits and not in the hole."""
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
        """The ranges and rights, reserved pages, each page of memory in order, each device page, then table pages."""
        if not iova_range_ok(self.iova, self.count):
            return BAD_IOVA
        number = self.gfn - WINDOWS_GFN
        window = 0 <= number < DEVICES
        if self.count != 1 if window else not range_ok(self.gfn, self.count, DMA_PAGES):
            return BAD_RANGE
        if self.rights not in DMA_RIGHTS:
            return Refused(Status.INVALID, "rights")
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
        if any(entry & ALL_RIGHTS and entry & FOREIGN for _, _, _, entries in runs for entry in entries):
            return MADE_BY_GRANT
        if caller.dma.tables_needed(pages) > len(caller.pool):
            return POOL_TOO_SMALL
        steps = tuple(MapDma(caller.id, page, frame, self.rights) for page, frame in zip(pages, frames, strict=True))
        return Effect(steps, self.count)

    def window_refusal(self, hv: Hypervisor, caller: Domain, number: int) -> Refused | None:
        """Why the registers of device `number` cannot be mapped."""
        if hv.iommu.domain_of(hv.machine.devices[number].bdf) != caller.id:
            return NOT_ITS_DEVICE
        place = hv.window_of(number)
        if place is not None and place != (caller.id, self.iova >> PAGE_SHIFT):
            return Refused(Status.EXISTS, "registers mapped elsewhere")
        return None

    def frame(self, hv: Hypervisor, caller: Domain, gfn: int, entry: int, level: int) -> int | Refused:
        """The caller's own frame at `gfn`, to which it has the rights that its devices are to get."""
        if not entry & ALL_RIGHTS:
            return ABSENT
        hfn = leaf_frame(entry, level, gfn)
        if hv.frames.owner(hfn) != caller.id:
            return NOT_THE_OWNER
        if self.rights & ~entry:
            return Refused(Status.NOT_PERMITTED, "caller lacks the rights")
        return hfn


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
        """The range, reserved pages, then each device page in order; what a grant mapped, only `grant.unmap` unmaps."""
        if not iova_range_ok(self.iova, self.count):
            return BAD_IOVA
        first = self.iova >> PAGE_SHIFT
        if hv.reserved and hv.is_reserved(first, self.count):
            return KEPT_BY_FIRMWARE
        for _, entry, _ in caller.dma.leaves(first, self.count):
            if not entry & ALL_RIGHTS:
                return Refused(Status.NOT_PRESENT, "device page not mapped")
            if entry & FOREIGN:
                return MADE_BY_GRANT
        return Effect(tuple(UnmapDma(caller.id, page) for page in range(first, first + self.count)), self.count)


# Validated DMA.


def device_refusal(hv: Hypervisor, caller: Domain, number: int) -> Refused | None:
    """Why the caller cannot have device `number` copy: only a DMA engine can."""
    device = hv.device(number)
    if not isinstance(device, DmaEngine):
        return NO_SUCH_DEVICE
    return None if hv.iommu.domain_of(device.bdf) == caller.id else NOT_ITS_DEVICE


def request_refusal(caller: Domain, source: int, target: int, length: int) -> Refused | None:
    """Why a copy between these device addresses is refused."""
    if not 0 < length <= DMA_LENGTH:
        return Refused(Status.INVALID, "length")
    if source + length > IOVA_LIMIT or target + length > IOVA_LIMIT:
        return BAD_IOVA
    if not reaches(caller, source, length, READ):
        return Refused(Status.FAULT, "source not readable by devices")
    if not reaches(caller, target, length, WRITE):
        return Refused(Status.FAULT, "target not writable by devices")
    return None


def reaches(caller: Domain, iova: int, length: int, right: int) -> bool:
    """Whether the caller's devices have `right` to each page of the range, and each is memory."""
    first, last = iova >> PAGE_SHIFT, iova + length - 1 >> PAGE_SHIFT
    frames = caller.dma.frames.count
    return all(
        entry & right and leaf_frame(entry, 1, 0) < frames
        for _, _, _, entries in caller.dma.runs(first, last - first + 1)
        for entry in entries
    )


def submissions(device: int, requests: Sequence[Request]) -> tuple[Step, ...]:
    """The steps that run checked requests, in order."""
    return tuple(SubmitDma(device, source, target, length) for source, target, length in requests)


@hypercall(
    0x64,
    result="length",
    errors=(Status.NO_DEVICE, Status.NOT_PERMITTED, Status.INVALID, Status.FAULT),
)
class DmaSubmit:
    """Copy `length` bytes (at most 8192) from device address `from` to device address `to` with a DMA engine.

    Both ranges must be memory: the call does not reach device registers.

    - `NO_DEVICE`: `device` is not a DMA engine.
    - `NOT_PERMITTED`: the engine is not assigned to the caller.
    - `INVALID`: `length` is 0 or above 8192; a range exceeds the limit of device addresses.
    - `FAULT`: the source is not mapped with right R, or the target not with right W; one of them is not memory.
    """

    device: DeviceArg
    from_: IovaArg
    to: IovaArg
    length: Annotated[int, LENGTH.trying(DMA_LENGTH, DMA_LENGTH + 1)]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The device, then the request."""
        refused = device_refusal(hv, caller, self.device)
        if refused is None:
            refused = request_refusal(caller, self.from_, self.to, self.length)
        if refused is not None:
            return refused
        return Effect(submissions(self.device, ((self.from_, self.to, self.length),)), self.length)


@hypercall(
    0x65,
    result="number of requests",
    errors=(Status.NO_DEVICE, Status.NOT_PERMITTED, Status.INVALID, Status.FAULT),
    since=2,
    long=True,
)
class DmaBatch:
    """Run up to 16 copies with a DMA engine.

    `ring` is a word with the number of copies, then three words for each copy: from, to, length. All copies are checked
    before the first one runs.

    - `NO_DEVICE`: `device` is not a DMA engine.
    - `NOT_PERMITTED`: the engine is not assigned to the caller.
    - `FAULT`: the first word of `ring` is not readable.
    - `INVALID`: the number of copies is 0 or above 16.
    - `FAULT`: the other words are not readable.
    - `NOT_PERMITTED`: the engine was taken from the caller while `ring` was fetched.
    - `INVALID`, `FAULT`, for each copy in order: as for `device.dma_submit`.
    """

    device: DeviceArg
    ring: DmaRing

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The device, the ring, the device again, and each request in order.

        While the ring is fetched another vCPU can run, and the control domain may give the device away.
        """
        refused = device_refusal(hv, caller, self.device)
        if refused is not None:
            return refused
        requests = self.requests(hv, vcpu)
        if isinstance(requests, Refused):
            return requests
        refused = device_refusal(hv, caller, self.device)
        if refused is not None:
            return refused
        for source, target, length in requests:
            refused = request_refusal(caller, source, target, length)
            if refused is not None:
                return refused
        return Effect(submissions(self.device, requests), len(requests))

    def requests(self, hv: Hypervisor, vcpu: VCpu) -> tuple[Request, ...] | Refused:
        """What is in the ring, each word of it fetched once: a guest can change the ring at any time."""
        header = guest_access.copy_from_guest(hv, vcpu, self.ring, HEADER.size)
        if header is None:
            return Refused(Status.FAULT, "ring header unreadable")
        (count,) = HEADER.unpack(header)
        if not 0 < count <= BATCH:
            return Refused(Status.INVALID, "number of requests")
        body = guest_access.copy_from_guest(hv, vcpu, self.ring + HEADER.size, count * REQUEST.size)
        if body is None:
            return Refused(Status.FAULT, "requests unreadable")
        return tuple((source, target, length) for source, target, length in REQUEST.iter_unpack(body))
