"""The rules of family `device`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hvfuzz.abi import limits
from hvfuzz.abi.boot import DEVICES, DMA_ENGINES, MMIO_BASE
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, WRITE, Hfn
from hvfuzz.oracles.contract.spec.calls.memory import owned
from hvfuzz.oracles.contract.spec.cells import IoPage, Page
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.ranges import pages_in
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Expected, Tables, Touch, move
from hvfuzz.oracles.scene.device_windows import FIRST_FRAME as REGISTERS

IO_PAGES: Final = limits.IOVA_LIMIT >> PAGE_SHIFT
IO_RIGHTS: Final = (READ, WRITE, READ | WRITE)
REQUEST_WORDS: Final = 3
WINDOWS: Final = MMIO_BASE >> PAGE_SHIFT
"""Guest frame number of the registers of device 0."""


def assign(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Assign a free device to a domain, and map the memory that firmware reserves for it."""
    device = call.args.device
    if device >= DEVICES:
        return Status.NO_DEVICE
    to = state.resolve(call.caller, call.args.to)
    if to is None:
        return Status.NO_DOMAIN
    key = ("device", device)
    if key in state:
        return Status.BUSY

    region = state.get(("reserved", device)) or ()

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        state[key] = to
        for page in region:
            state[("iova", to, page)] = IoPage(page, READ | WRITE, foreign=False)

    return Accept(effect=effect, tables=Tables.NEEDED, payer=to) if region else Accept(effect=effect)


def deassign(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Take a device from its domain, and unmap its reserved memory and its registers."""
    if call.args.device >= DEVICES:
        return Status.NO_DEVICE
    key = ("device", call.args.device)
    if key not in state:
        return Status.NOT_PRESENT

    owner = state[key]
    window = ("window", call.args.device)
    mapped = [*(state.get(("reserved", call.args.device)) or ()), *([state[window]] if window in state else [])]

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        del state[key]
        state.erase([("iova", owner, page) for page in mapped])
        if window in state:
            del state[window]

    return Accept(effect=effect, tables=Tables.RETURNED, payer=owner) if mapped else Accept(effect=effect)


def io_range(args: Any) -> range | None:
    """The device pages that `iova` and `count` name; None if the range is invalid."""
    first = args.iova >> PAGE_SHIFT
    if args.iova & PAGE_MASK or not pages_in(first, args.count, IO_PAGES, limits.DMA_PAGES):
        return None
    pages = range(first, first + args.count)
    return None if any(page << PAGE_SHIFT in limits.IOVA_HOLE for page in (pages[0], pages[-1])) else pages


def dma_map(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Map a range of the caller's pages, or the registers of one device, at device addresses."""
    args, caller = call.args, call.caller
    iovas = io_range(args)
    number = args.gfn - WINDOWS
    window = number in range(DEVICES)
    if iovas is None or args.rights not in IO_RIGHTS:
        return Status.INVALID
    if args.count != 1 if window else args.gfn + args.count > limits.MAX_GFN:
        return Status.INVALID
    if state.reserved(iovas):
        return Status.NOT_PERMITTED
    frames = []
    if window:
        if state.get(("device", number)) != caller:
            return Status.NOT_PERMITTED
        if state.get(("window", number)) not in (None, iovas[0]):
            return Status.EXISTS
        frames.append(REGISTERS + number)
    for gfn in () if window else range(args.gfn, args.gfn + args.count):
        page = owned(state, caller, gfn)
        if not isinstance(page, Page):
            return page
        if args.rights & ~page.rights:
            return Status.NOT_PERMITTED
        frames.append(page.frame)
    for iova in iovas:
        there: IoPage | None = state.get(("iova", caller, iova))
        if there is not None and there.foreign:
            return Status.EXISTS

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        for iova, frame in zip(iovas, frames, strict=True):
            displaced: IoPage | None = state.get(("iova", caller, iova))
            if displaced is not None:
                remove_mapping(state, displaced.frame)
            state[("iova", caller, iova)] = IoPage(frame, args.rights, foreign=False)
            if window:
                state[("window", number)] = iova
            else:
                state.count(frame, maps=1)

    return Accept(args.count, effect, tables=Tables.NEEDED)


def remove_mapping(state: State, frame: int) -> None:
    """Remove a device page's mapping of this frame, or of these registers."""
    if frame < state.frames:
        state.count(frame, maps=-1)
    else:
        del state[("window", frame - REGISTERS)]


def dma_unmap(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Unmap a range of device pages that dma_map mapped."""
    args, caller = call.args, call.caller
    iovas = io_range(args)
    if iovas is None:
        return Status.INVALID
    if state.reserved(iovas):
        return Status.NOT_PERMITTED
    frames = []
    for iova in iovas:
        there: IoPage | None = state.get(("iova", caller, iova))
        if there is None:
            return Status.NOT_PRESENT
        if there.foreign:
            return Status.EXISTS
        frames.append(there.frame)

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        state.erase([("iova", caller, iova) for iova in iovas])
        for frame in frames:
            remove_mapping(state, frame)

    return Accept(args.count, effect, tables=Tables.RETURNED)


def device_refusal(state: State, caller: int, device: int) -> Status | None:
    """Why the caller may not use the device for a copy; None if it may. Only DMA engines copy."""
    if device >= DMA_ENGINES:
        return Status.NO_DEVICE
    return None if state.get(("device", device)) == caller else Status.NOT_PERMITTED


def copy_refusal(state: State, caller: int, source: int, dest: int, length: int) -> Status | None:
    """Why a copy is refused; None if the caller's IOMMU table maps both ranges to memory with the necessary rights."""
    if not 0 < length <= limits.DMA_LENGTH:
        return Status.INVALID
    if max(source, dest) + length > limits.IOVA_LIMIT:
        return Status.INVALID
    for start, right in ((source, READ), (dest, WRITE)):
        for iova in range(start >> PAGE_SHIFT, (start + length - 1 >> PAGE_SHIFT) + 1):
            there: IoPage | None = state.get(("iova", caller, iova))
            if there is None or not there.rights & right or there.frame >= state.frames:
                return Status.FAULT
    return None


def copy_touches(state: State, caller: int, source: int, dest: int, length: int) -> list[Touch]:
    """The accesses of a valid copy: in pieces that cross no page boundary at either end."""
    touched: list[Touch] = []
    while length:
        size = min(length, PAGE_SIZE - (source & PAGE_MASK), PAGE_SIZE - (dest & PAGE_MASK))
        touched += move(host_address(state, caller, source), host_address(state, caller, dest), size)
        source, dest, length = source + size, dest + size, length - size
    return touched


def host_address(state: State, caller: int, iova: int) -> int:
    """The host physical address of a mapped device address."""
    page: IoPage = state[("iova", caller, iova >> PAGE_SHIFT)]
    return page.frame << PAGE_SHIFT | iova & PAGE_MASK


def dma_submit(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Run one copy."""
    args, caller = call.args, call.caller
    request = args.from_, args.to, args.length
    refusal = device_refusal(state, caller, args.device) or copy_refusal(state, caller, *request)
    return refusal or Accept(args.length, moved=tuple(copy_touches(state, caller, *request)))


def dma_batch(state: State, call: Call, evidence: Evidence) -> Expected:
    """Run the copies in a ring. Their number is read once, and all are checked before the first one runs."""
    args, caller = call.args, call.caller
    refusal = device_refusal(state, caller, args.device)
    if refusal is not None:
        return refusal
    header = evidence.words(args.ring, 1)
    if header is None:
        return Status.FAULT
    count = header[0]
    if not 0 < count <= limits.BATCH:
        return Status.INVALID
    words = evidence.words(args.ring + 8, REQUEST_WORDS * count)
    if words is None:
        return Status.FAULT
    touched: list[Touch] = []
    for at in range(0, len(words), REQUEST_WORDS):
        source, dest, length = words[at : at + REQUEST_WORDS]
        refusal = copy_refusal(state, caller, source, dest, length)
        if refusal is not None:
            return refusal
        touched += copy_touches(state, caller, source, dest, length)
    return Accept(count, moved=tuple(touched))


RULES: Final[Mapping[str, Rule]] = {
    "assign": assign,
    "deassign": deassign,
    "dma_map": dma_map,
    "dma_unmap": dma_unmap,
    "dma_submit": dma_submit,
    "dma_batch": dma_batch,
}
