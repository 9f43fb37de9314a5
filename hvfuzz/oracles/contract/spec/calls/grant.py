"""The rules of family `grant`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hvfuzz.abi import limits
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, WRITE, Hfn
from hvfuzz.oracles.contract.spec.calls.memory import owned
from hvfuzz.oracles.contract.spec.cells import Grant, Handle, IoPage, Page
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Expected, Tables, move

HOST: Final = 1
DEVICE: Final = 2
READONLY: Final = 4
SIDES: Final = HOST | DEVICE
SOURCE_REF: Final = 1
DEST_REF: Final = 2


def create(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Make a grant entry that lets `to` use the frame at `gfn`."""
    args, caller = call.args, call.caller
    if args.gfn >= limits.MAX_GFN or args.rights not in (READ, READ | WRITE):
        return Status.INVALID
    to = state.resolve(caller, args.to)
    if to is None:
        return Status.NO_DOMAIN
    if to == caller:
        return Status.INVALID
    page = owned(state, caller, args.gfn)
    if not isinstance(page, Page):
        return page
    if args.rights & ~page.rights:
        return Status.NOT_PERMITTED
    ref = state.lowest_free("grant", caller, limits.GRANTS)
    if ref is None:
        return Status.LIMIT

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        state[("grant", caller, ref)] = Grant(args.gfn, page.frame, to, args.rights, 0, 0)
        state.count(page.frame, grants=1)

    return Accept(ref, effect)


def revoke(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Free a grant entry that is not mapped."""
    key = ("grant", call.caller, call.args.ref)
    entry: Grant | None = state.get(key)
    if entry is None:
        return Status.NO_GRANT
    if entry.host_pins or entry.device_pins:
        return Status.BUSY

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        del state[key]
        state.count(entry.frame, grants=-1)

    return Accept(effect=effect)


def granted(state: State, caller: int, granter: int, ref: int) -> Grant | Status:
    """The live entry `ref` of `granter` for the caller, or the refusal."""
    entry: Grant | None = state.get(("grant", granter, ref))
    return Status.NO_GRANT if entry is None or entry.to != caller else entry


def map_grant(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Map a granted frame in the caller's stage 2 (HOST), in its IOMMU table (DEVICE), or both."""
    args, caller = call.args, call.caller
    host, device = bool(args.flags & HOST), bool(args.flags & DEVICE)
    if args.flags & ~(SIDES | READONLY) or not (host or device):
        return Status.INVALID
    if host and args.gfn >= limits.MAX_GFN:
        return Status.INVALID
    if device and (args.iova & PAGE_MASK or args.iova >= limits.IOVA_LIMIT or args.iova in limits.IOVA_HOLE):
        return Status.INVALID
    io_number = args.iova >> PAGE_SHIFT
    if device and state.reserved(range(io_number, io_number + 1)):
        return Status.NOT_PERMITTED
    granter = state.resolve(caller, args.granter)
    if granter is None:
        return Status.NO_DOMAIN
    if granter == caller:
        return Status.INVALID
    entry = granted(state, caller, granter, args.ref)
    if not isinstance(entry, Grant):
        return entry
    rights = READ if args.flags & READONLY else READ | WRITE
    if rights & ~entry.rights:
        return Status.NOT_PERMITTED
    page = ("page", caller, args.gfn)
    io_page = ("iova", caller, args.iova >> PAGE_SHIFT)
    if (host and page in state) or (device and io_page in state):
        return Status.EXISTS
    number = state.lowest_free("handle", caller, limits.HANDLES)
    if number is None:
        return Status.LIMIT
    frame = entry.frame

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        gfn, iova = args.gfn if host else 0, args.iova if device else 0
        handle = Handle(granter, args.ref, host, device, gfn, iova, frame, rights)
        state[("handle", caller, number)] = handle
        if host:
            state[page] = Page(frame, rights, foreign=True)
        if device:
            state[io_page] = IoPage(frame, rights, foreign=True)
        pin(state, handle, host, device)

    return Accept(number, effect, tables=Tables.NEEDED)


def pin(state: State, handle: Handle, host: int, device: int) -> None:
    """Add the sides of a mapping to the counts of its grant entry and its frame; -1 removes a side."""
    key = ("grant", handle.granter, handle.ref)
    entry: Grant | None = state.get(key)
    if entry is not None:
        gfn, frame, to, rights, host_pins, device_pins = entry
        state[key] = Grant(gfn, frame, to, rights, host_pins + host, device_pins + device)
    state.count(handle.frame, maps=host + device, pins=host + device)


def unmap(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Unmap the named sides of consecutive handles; a handle without sides becomes free."""
    args, caller = call.args, call.caller
    if not 0 < args.count <= limits.UNMAP or not args.flags & SIDES or args.flags & ~SIDES:
        return Status.INVALID
    # Handles beyond the end of the table are not live.
    handles = []
    for number in range(args.handle, args.handle + args.count):
        handle: Handle | None = state.get(("handle", caller, number))
        if handle is None:
            return Status.BAD_HANDLE
        host, device = bool(handle.host and args.flags & HOST), bool(handle.device and args.flags & DEVICE)
        handles.append((number, handle, host, device))

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        for number, handle, host, device in handles:
            if host or device:
                unmap_sides(state, caller, number, handle, host, device)

    return Accept(sum(host + device for _, _, host, device in handles), effect, tables=Tables.RETURNED)


def unmap_sides(state: State, caller: int, number: int, handle: Handle, host: bool, device: bool) -> None:
    """Unmap sides that the handle has."""
    key = ("handle", caller, number)
    if host:
        del state[("page", caller, handle.gfn)]
        handle = handle._replace(host=False, gfn=0)
    if device:
        del state[("iova", caller, handle.iova >> PAGE_SHIFT)]
        handle = handle._replace(device=False, iova=0)
    if handle.host or handle.device:
        state[key] = handle
    else:
        del state[key]
    pin(state, handle, -host, -device)


def copy(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Copy bytes between two frames, each of which the caller has mapped or been granted."""
    args, caller = call.args, call.caller
    end = max(args.from_offset, args.to_offset) + args.length
    if args.flags & ~(SOURCE_REF | DEST_REF) or args.length == 0 or end > PAGE_SIZE:
        return Status.INVALID
    source = copy_end(state, caller, args.flags & SOURCE_REF, args.from_domain, args.from_, READ)
    if isinstance(source, Status):
        return source
    dest = copy_end(state, caller, args.flags & DEST_REF, args.to_domain, args.to, WRITE)
    if isinstance(dest, Status):
        return dest
    start = (source << PAGE_SHIFT) + args.from_offset
    return Accept(args.length, moved=move(start, (dest << PAGE_SHIFT) + args.to_offset, args.length))


def copy_end(state: State, caller: int, is_ref: int, domain: int, value: int, access: int) -> int | Status:
    """The frame of one end of a copy, or the refusal."""
    if is_ref:
        granter = state.resolve(caller, domain)
        if granter is None:
            return Status.NO_DOMAIN
        holder: Grant | Page | Status = granted(state, caller, granter, value)
    elif value >= limits.MAX_GFN:
        return Status.INVALID
    else:
        holder = state.page(caller, value) or Status.NOT_PRESENT
    if isinstance(holder, Status):
        return holder
    return holder.frame if holder.rights & access else Status.NOT_PERMITTED


RULES: Final[Mapping[str, Rule]] = {
    "create": create,
    "revoke": revoke,
    "map": map_grant,
    "unmap": unmap,
    "copy": copy,
}
