"""Memory shared page by page: the owner grants a page; another domain maps it, or copies from or to it.

Longer than 300 lines: the docstrings are the reference text of five calls in ABI.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import (
    Count,
    DomainRef,
    Flags,
    FrameOrRef,
    GfnArg,
    GrantRefArg,
    HandleArg,
    IovaArg,
    Length16,
    Offset,
    Rights,
)
from hvfuzz.abi.limits import IOVA_HOLE, IOVA_LIMIT, MAX_GFN, UNMAP
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.domains import Grant, Mapping
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.ipc import grants
from hvfuzz.hypervisor.ipc.grants import DEVICE, HOST, CopyBytes, CreateGrant, MapGrant, RevokeGrant
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, READ, RIGHTS, WRITE, leaf_frame
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

READONLY = 4
SIDES = HOST | DEVICE
SOURCE_REF = 1
DEST_REF = 2
READ_WRITE = READ | WRITE


@hypercall(
    0x20,
    result="ref",
    produces="grant_ref",
    errors=(
        Status.INVALID,
        Status.NO_DOMAIN,
        Status.NOT_PRESENT,
        Status.NOT_OWNER,
        Status.NOT_PERMITTED,
        Status.LIMIT,
    ),
)
class Create:
    """Let domain `to` map the caller's page `gfn` with `rights` (R or RW).

    - `INVALID`: `gfn` is not below `MAX_GFN`; `rights` has any other value.
    - `NO_DOMAIN`: there is no domain `to`.
    - `INVALID`: `to` is the caller.
    - `NOT_PRESENT`: the page is absent.
    - `NOT_OWNER`: its frame belongs to another domain.
    - `NOT_PERMITTED`: the caller lacks one of the rights.
    - `LIMIT`: all grant entries are in use.
    """

    gfn: GfnArg
    to: DomainRef
    rights: Rights

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The arguments, the frame and the caller's own rights to it, a free entry."""
        gfn, rights = self.gfn, self.rights
        if gfn >= MAX_GFN:
            return Refused(Status.INVALID, "gfn out of range")
        if rights not in (READ, READ_WRITE):
            return Refused(Status.INVALID, "rights")
        to = hv.resolve(caller, self.to)
        if to is None:
            return Refused(Status.NO_DOMAIN, "to")
        if to is caller:
            return Refused(Status.INVALID, "grant to itself")
        leaf, level, _ = caller.stage2.lookup(gfn)
        if not leaf & RIGHTS:
            return Refused(Status.NOT_PRESENT, "gfn not present")
        frame = leaf_frame(leaf, level, gfn)
        if leaf & FOREIGN or hv.frames.owner(frame) != caller.id:
            return Refused(Status.NOT_OWNER, "gfn not the caller's")
        if rights & ~leaf:
            return Refused(Status.NOT_PERMITTED, "caller lacks the rights")
        ref = caller.grants.lowest_free()
        if ref < 0:
            return Refused(Status.LIMIT, "all entries taken")
        return Effect((CreateGrant(caller.id, ref, Grant(gfn, frame, to.id, rights)),), ref)


@hypercall(0x21, errors=(Status.NO_GRANT, Status.BUSY))
class Revoke:
    """Remove grant entry `ref`.

    - `NO_GRANT`: the caller has no live entry `ref`.
    - `BUSY`: a mapping of the entry exists.
    """

    ref: GrantRefArg

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The entry must be live and not pinned."""
        entry = grants.live_entry(caller, self.ref)
        if entry is None:
            return Refused(Status.NO_GRANT, "entry not live")
        if entry.host_pins or entry.device_pins:
            return Refused(Status.BUSY, "entry mapped")
        return Effect((RevokeGrant(caller.id, self.ref),))


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
        """The arguments, the grant, that the place is free, a free handle, the table pages."""
        flags, gfn, iova = self.flags, self.gfn, self.iova
        if not flags & SIDES or flags & ~(SIDES | READONLY):
            return Refused(Status.INVALID, "flags")
        if flags & HOST and gfn >= MAX_GFN:
            return Refused(Status.INVALID, "gfn out of range")
        if flags & DEVICE and (iova & PAGE_MASK or iova >= IOVA_LIMIT or iova in IOVA_HOLE):
            return Refused(Status.INVALID, "iova out of range")
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
        if not flags & READONLY and not entry.rights & WRITE:
            return Refused(Status.NOT_PERMITTED, "grant is read-only")
        tables = 0
        if flags & HOST:
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
        if tables > len(caller.pool):
            return Refused(Status.NO_POOL, "pool too small")
        rights = READ if flags & READONLY else READ_WRITE
        host, device = bool(flags & HOST), bool(flags & DEVICE)
        mapping = Mapping(
            granter.id, self.ref, host, device, gfn if host else 0, iova if device else 0, entry.frame, rights
        )
        return Effect((MapGrant(caller.id, handle, mapping),), handle)


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
        """The arguments; then every handle must be live."""
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
        return Effect(grants.release_steps(caller, mappings, self.flags), released)


def own_frame(caller: Domain, gfn: int, right: int) -> int | Refused:
    """The frame of one end of a copy that the caller names by `gfn`, to which it must have `right`."""
    if gfn >= MAX_GFN:
        return Refused(Status.INVALID, "gfn out of range")
    leaf, level, _ = caller.stage2.lookup(gfn)
    if not leaf & RIGHTS:
        return Refused(Status.NOT_PRESENT, "gfn not present")
    if not leaf & right:
        return Refused(Status.NOT_PERMITTED, "caller lacks the right")
    return leaf_frame(leaf, level, gfn)


def granted_frame(hv: Hypervisor, caller: Domain, domain: int, ref: int, right: int) -> int | Refused:
    """The frame of one end of a copy that the caller names by a grant of `domain`, which must give `right`."""
    granter = hv.resolve(caller, domain)
    if granter is None:
        return Refused(Status.NO_DOMAIN, "granter")
    entry = grants.live_grant(granter, ref, caller)
    if entry is None:
        return Refused(Status.NO_GRANT, "entry not live")
    if not entry.rights & right:
        return Refused(Status.NOT_PERMITTED, "grant lacks the right")
    return entry.frame


@hypercall(
    0x24,
    result="length",
    errors=(
        Status.INVALID,
        Status.NO_DOMAIN,
        Status.NOT_PRESENT,
        Status.NOT_PERMITTED,
        Status.NO_GRANT,
    ),
)
class Copy:
    """Copy `length` bytes from one page to another.

    `from` and `to` are guest frame numbers of the caller. With SOURCE_REF, `from` is a grant entry of domain
    `from_domain`; with DEST_REF, `to` is a grant entry of domain `to_domain`.

    - `INVALID`: `flags` has an unknown bit; `length` is 0; a range crosses the end of its page.
    - `INVALID`, `NOT_PRESENT`, `NOT_PERMITTED`, for the source and then the destination, if it is a page: its guest
      frame number is not below `MAX_GFN`; it is absent; it lacks right R (source) or W (destination).
    - `NO_DOMAIN`, `NO_GRANT`, `NOT_PERMITTED`, for the source and then the destination, if it is a grant entry: there
      is no such domain; the entry is not live, or is for another domain; it lacks right R (source) or W (destination).
    """

    flags: Annotated[int, Flags("SOURCE_REF", "DEST_REF")]
    from_domain: DomainRef
    to_domain: DomainRef
    from_: FrameOrRef
    to: FrameOrRef
    from_offset: Offset
    to_offset: Offset
    length: Length16

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The arguments, the source, the destination."""
        length = self.length
        if self.flags & ~(SOURCE_REF | DEST_REF):
            return Refused(Status.INVALID, "flags")
        if length == 0 or self.from_offset + length > PAGE_SIZE or self.to_offset + length > PAGE_SIZE:
            return Refused(Status.INVALID, "beyond the page")
        if self.flags & SOURCE_REF:
            source = granted_frame(hv, caller, self.from_domain, self.from_, READ)
        else:
            source = own_frame(caller, self.from_, READ)
        if isinstance(source, Refused):
            return source
        if self.flags & DEST_REF:
            dest = granted_frame(hv, caller, self.to_domain, self.to, WRITE)
        else:
            dest = own_frame(caller, self.to, WRITE)
        if isinstance(dest, Refused):
            return dest
        step = CopyBytes(
            vcpu.id,
            (source << PAGE_SHIFT) + self.from_offset,
            (dest << PAGE_SHIFT) + self.to_offset,
            length,
        )
        return Effect((step,), length)
