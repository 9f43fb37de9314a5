"""Mappings of granted frames: `grant.map`, and `grant.unmap`, which undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import Count, DomainRef, Flags, GfnArg, GrantRefArg, HandleArg, IovaArg
from hvfuzz.abi.limits import IOVA_HOLE, IOVA_LIMIT, MAX_GFN, UNMAP
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.domains import Mapping
from hvfuzz.hypervisor.core.effects import RELEASE_WORK, Effect, Refused, Step
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.hypercalls.grant.entries import READ_WRITE
from hvfuzz.hypervisor.ipc import grants
from hvfuzz.hypervisor.ipc.grants import DEVICE, HOST, pin, sides_of
from hvfuzz.hypervisor.memory.table_tree import READ, RIGHTS, WRITE
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


READONLY = 4


SIDES = HOST | DEVICE


@hypercall(
    0x22,
    result="handle",
    produces="handle",
    errors=(
        Status.INVALID,
        Status.NO_DOMAIN,
        Status.NO_GRANT,
        Status.NOT_PERMITTED,
        Status.EXISTS,
        Status.LIMIT,
        Status.NO_POOL,
    ),
)
class Map:
    """Map grant entry `ref` of domain `granter` in the caller's memory, for the caller's devices, or both.

    HOST maps the frame at `gfn`, DEVICE at device address `iova`; at least one of the two is necessary. The rights are
    RW, or R with READONLY.

    - `INVALID`: `flags` has neither HOST nor DEVICE, or an unknown bit; with HOST, `gfn` is not below `MAX_GFN`; with
      DEVICE, `iova` is not page-aligned or not a valid device address.
    - `NOT_PERMITTED`: with DEVICE, `iova` is the address of memory that firmware reserves for a device.
    - `NO_DOMAIN`: there is no domain `granter`.
    - `INVALID`: `granter` is the caller.
    - `NO_GRANT`: the entry is not live, or is for another domain.
    - `NOT_PERMITTED`: the entry has only right R, and READONLY is not set.
    - `EXISTS`: `gfn` is present, or `iova` is mapped.
    - `LIMIT`: all handles of the caller are in use.
    - `NO_POOL`: the pool has too few pages for new tables.
    """

    granter: DomainRef
    ref: GrantRefArg
    gfn: GfnArg
    iova: IovaArg
    flags: Annotated[int, Flags("HOST", "DEVICE", "READONLY")]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: arguments, granter, grant, free target addresses, free handle, table pages."""
        flags, gfn, iova = self.flags, self.gfn, self.iova
        if not flags & SIDES or flags & ~(SIDES | READONLY):
            return Refused(Status.INVALID, "flags")
        if flags & HOST and gfn >= MAX_GFN:
            return Refused(Status.INVALID, "gfn out of range")
        if flags & DEVICE and (iova & PAGE_MASK or iova >= IOVA_LIMIT or iova in IOVA_HOLE):
            return Refused(Status.INVALID, "iova out of range")
        # Without this check, a guest could redirect a device that firmware set up (XSA-378).
        if flags & DEVICE and hv.reserved and hv.is_reserved(iova >> PAGE_SHIFT):
            return Refused(Status.NOT_PERMITTED, "iova of a reserved region")
        granter = hv.resolve(caller, self.granter)
        if granter is None:
            return Refused(Status.NO_DOMAIN, "granter")
        if granter is caller:
            return Refused(Status.INVALID, "own grant")
        entry = grants.live_grant(granter, self.ref, caller)
        if entry is None:
            return Refused(Status.NO_GRANT, "entry not live")
        # Without this check, a guest could write to a page that is granted to it read-only.
        if not flags & READONLY and not entry.rights & WRITE:
            return Refused(Status.NOT_PERMITTED, "grant is read-only")
        tables = 0
        if flags & HOST:
            # Without this check, the displaced page's frame would keep the count of a leaf that no longer exists.
            if caller.stage2.lookup(gfn)[0] & RIGHTS:
                return Refused(Status.EXISTS, "gfn present")
            tables = caller.stage2.tables_needed((gfn,))
        if flags & DEVICE:
            page = iova >> PAGE_SHIFT
            if caller.dma.lookup(page)[0] & RIGHTS:
                return Refused(Status.EXISTS, "iova mapped")
            tables += caller.dma.tables_needed((page,))
        handle = caller.handles.lowest_free()
        if handle < 0:
            return Refused(Status.LIMIT, "all handles taken")
        # Both sides take tables from the same pool: checked one by one, the second could find it empty.
        if caller.stage2.pool.lacks(tables):
            return Refused(Status.NO_POOL, "pool too small")
        rights = READ if flags & READONLY else READ_WRITE
        host, device = bool(flags & HOST), bool(flags & DEVICE)
        mapping = Mapping(
            granter.id, self.ref, host, device, gfn if host else 0, iova if device else 0, entry.frame, rights
        )
        return Effect((MapGrant(caller.id, handle, mapping),), handle)


class MapGrant(NamedTuple):
    """Set `handle` of `domain` to `mapping`, pin its sides, and map them."""

    domain: int
    handle: int
    mapping: Mapping

    def apply(self, hv: Hypervisor) -> None:
        """Pin before mapping: every present leaf is counted at all times."""
        domain, mapping = hv.domains[self.domain], self.mapping
        domain.handles[self.handle] = mapping
        pin(hv, mapping, sides_of(mapping), 1)
        if mapping.host:
            domain.stage2.map(mapping.gfn, mapping.frame, mapping.rights, foreign=True)
        if mapping.device:
            domain.dma.map(mapping.iova >> PAGE_SHIFT, mapping.frame, mapping.rights, foreign=True)


@hypercall(0x23, result="number of sides released", errors=(Status.INVALID, Status.BAD_HANDLE), long=True)
class Unmap:
    """Release the sides that `flags` names (HOST, DEVICE) of `count` grant mappings with handles from `handle` on.

    The call skips a side that a mapping lacks. A handle is free when its mapping has no side left.

    - `INVALID`: `count` is 0 or above 64; `flags` is 0 or has an unknown bit.
    - `BAD_HANDLE`: one of the handles is not live.
    """

    handle: HandleArg
    count: Count
    flags: Annotated[int, Flags("HOST", "DEVICE")]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: arguments, each handle live."""
        if not 0 < self.count <= UNMAP:
            return Refused(Status.INVALID, "number of handles")
        if not 0 < self.flags <= SIDES:
            return Refused(Status.INVALID, "flags")
        mappings = []
        for handle in range(self.handle, self.handle + self.count):
            mapping = grants.live_mapping(caller, handle)
            if mapping is None:
                return Refused(Status.BAD_HANDLE, "handle not live")
            mappings.append((handle, mapping))
        released = sum((self.flags & grants.sides_of(mapping)).bit_count() for _, mapping in mappings)
        return Effect(release_steps(caller, mappings, self.flags), released)


def release_steps(domain: Domain, mappings: list[tuple[int, Mapping]], flags: int) -> tuple[Step, ...]:
    """One step for each mapped side that `flags` select, so that preemption is possible between them."""
    return tuple(
        ReleaseSide(domain.id, handle, side)
        for handle, mapping in mappings
        for side in (HOST, DEVICE)
        if side & flags & sides_of(mapping)
    )


class ReleaseSide(NamedTuple):
    """Unmap, flush and unpin one side (HOST or DEVICE) of `handle` of `domain`."""

    domain: int
    handle: int
    side: int

    @property
    def work(self) -> int:
        """RELEASE_WORK: 8 of these steps fit between two preemption points."""
        return RELEASE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Unmap and flush before unpinning: the frame may be freed as soon as it is unpinned."""
        domain = hv.domains[self.domain]
        mapping = domain.handles[self.handle]
        if mapping is None:
            raise HostBug("a checked handle is free")
        unmap_side(domain, mapping, self.side)
        drop_reference(hv, domain, self.handle, mapping, self.side)


def unmap_side(domain: Domain, mapping: Mapping, side: int) -> None:
    """Remove and flush the leaf of one side of a mapping."""
    if side == HOST:
        if not domain.stage2.unmap(mapping.gfn):
            raise HostBug("grant mapping in a large leaf")
    else:
        domain.dma.unmap(mapping.iova >> PAGE_SHIFT)


def drop_reference(hv: Hypervisor, domain: Domain, handle: int, mapping: Mapping, side: int) -> None:
    """Unpin the unmapped `side` of the mapping, and free the handle with its last side."""
    pin(hv, mapping, side, -1)
    set_sides(domain, handle, mapping, sides_of(mapping) & ~side)


def set_sides(domain: Domain, handle: int, mapping: Mapping, sides: int) -> None:
    """Update the handle to the remaining `sides` of its mapping; free it if none remain."""
    if not sides:
        domain.handles[handle] = None
    elif sides == HOST:
        domain.handles[handle] = mapping._replace(device=False, iova=0)
    else:
        domain.handles[handle] = mapping._replace(host=False, gfn=0)
