"""Bytes copied from and to granted frames: `grant.copy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import DomainRef, Flags, FrameOrRef, Length16, Offset
from hvfuzz.abi.limits import MAX_GFN
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.ipc import grants
from hvfuzz.hypervisor.ipc.grants import NO_GVA
from hvfuzz.hypervisor.memory.table_tree import READ, RIGHTS, WRITE, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.clock import Cost

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


SOURCE_REF = 1


DEST_REF = 2


def own_frame(caller: Domain, gfn: int, right: int) -> int | Refused:
    """The frame of the end of a copy named by the caller's `gfn`, to which it must have `right`; or Refused."""
    if gfn >= MAX_GFN:
        return Refused(Status.INVALID, "gfn out of range")
    leaf, level, _ = caller.stage2.lookup(gfn)
    if not leaf & RIGHTS:
        return Refused(Status.NOT_PRESENT, "gfn not present")
    # Without this check, a guest could write to a page that is granted to it read-only.
    if not leaf & right:
        return Refused(Status.NOT_PERMITTED, "caller lacks the right")
    return leaf_frame(leaf, level, gfn)


def granted_frame(hv: Hypervisor, caller: Domain, domain: int, ref: int, right: int) -> int | Refused:
    """The frame of the end of a copy named by grant `ref` of `domain`, which must give `right`; or Refused."""
    granter = hv.resolve(caller, domain)
    if granter is None:
        return Refused(Status.NO_DOMAIN, "granter")
    entry = grants.live_grant(granter, ref, caller)
    if entry is None:
        return Refused(Status.NO_GRANT, "entry not live")
    # Without this check, a guest could write to a page that is granted to it read-only.
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
        """Checks, in order: flags, offsets and length, source, destination."""
        length = self.length
        if self.flags & ~(SOURCE_REF | DEST_REF):
            return Refused(Status.INVALID, "flags")
        # Without this check, a copy could run into the next host frame, whose owner is arbitrary.
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


class CopyBytes(NamedTuple):
    """Copy `length` bytes from host physical `source` to `dest`, each within one frame, on behalf of a vCPU."""

    vcpu: int
    source: int
    dest: int
    length: int

    def apply(self, hv: Hypervisor) -> None:
        """Copy as memmove does: the ranges may overlap."""
        copy_bytes(hv, hv.machine.vcpus[self.vcpu], self.source, self.dest, self.length)


def copy_bytes(hv: Hypervisor, vcpu: VCpu, source: int, dest: int, length: int) -> None:
    """Copy between two frames that the check has validated; the observer is told NO_GVA for both."""
    observer = hv.observer
    observer.guest_copy(vcpu, NO_GVA, source, length, False)
    observer.guest_copy(vcpu, NO_GVA, dest, length, True)
    machine = hv.machine
    machine.clock.cycles += Cost.COPY_PER_64B * ((length + 63) >> 6)
    machine.memory.copy(dest, source, length)
    observer.guest_written()
