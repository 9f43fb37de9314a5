"""Validated DMA: `device.dma_submit` and `device.dma_batch`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import LENGTH, DeviceArg, DmaRing, IovaArg
from hvfuzz.abi.limits import BATCH, DMA_LENGTH, IOVA_LIMIT
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import PAGE_WORK, Effect, Refused, Step
from hvfuzz.hypervisor.hypercalls.device.assignment import NO_SUCH_DEVICE
from hvfuzz.hypervisor.hypercalls.device.dma_map import BAD_IOVA, NOT_ITS_DEVICE
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.hypervisor.memory.table_tree import READ, WRITE, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.devices.dma_engine import START, DmaEngine, Register

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


HEADER = struct.Struct("<Q")


REQUEST = struct.Struct("<3Q")


Request = tuple[int, int, int]
"""(source, target, length) of one copy."""


def device_refusal(hv: Hypervisor, caller: Domain, number: int) -> Refused | None:
    """Why the caller cannot use device `number` to copy; None if it can. Only DMA engines can copy."""
    device = hv.device(number)
    if not isinstance(device, DmaEngine):
        return NO_SUCH_DEVICE
    # Without this check, a guest could copy within the memory of another domain.
    return None if hv.iommu.domain_of(device.bdf) == caller.id else NOT_ITS_DEVICE


def request_refusal(caller: Domain, source: int, target: int, length: int) -> Refused | None:
    """Why a copy of `length` bytes from `source` to `target` (device addresses) is refused; None if it is not."""
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
    """Whether every page of the range is mapped for the caller's devices with `right`, and is memory.

    Registers are refused: a write to them could start another device within this call.
    """
    first, last = iova >> PAGE_SHIFT, iova + length - 1 >> PAGE_SHIFT
    frames = caller.dma.frames.count
    return all(
        entry & right and leaf_frame(entry, 1, 0) < frames
        for _, _, _, entries in caller.dma.runs(first, last - first + 1)
        for entry in entries
    )


def submissions(device: int, requests: Sequence[Request]) -> tuple[Step, ...]:
    """One step for each checked request, in order."""
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
        """Checks, in order: device, request."""
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
        """Checks, in order: device, ring, the device again, each request."""
        refused = device_refusal(hv, caller, self.device)
        if refused is not None:
            return refused
        requests = self.requests(hv, vcpu)
        if isinstance(requests, Refused):
            return requests
        # During the fetch, another vCPU may have had the device reassigned.
        refused = device_refusal(hv, caller, self.device)
        if refused is not None:
            return refused
        for source, target, length in requests:
            refused = request_refusal(caller, source, target, length)
            if refused is not None:
                return refused
        return Effect(submissions(self.device, requests), len(requests))

    def requests(self, hv: Hypervisor, vcpu: VCpu) -> tuple[Request, ...] | Refused:
        """Fetch the requests, each word once: the guest can change the ring at any time (XSA-155)."""
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


class SubmitDma(NamedTuple):
    """Have device number `device` copy `length` bytes from device address `source` to `target`."""

    device: int
    source: int
    target: int
    length: int

    @property
    def work(self) -> int:
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Program the registers of the engine; the write to CONTROL starts the copy."""
        engine = hv.machine.devices[self.device]
        for register, value in (
            (Register.SRC, self.source),
            (Register.DST, self.target),
            (Register.LENGTH, self.length),
            (Register.CONTROL, START),
        ):
            engine.mmio_write(register, 8, value)
