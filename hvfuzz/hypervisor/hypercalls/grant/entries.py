"""Grant entries: `grant.create`, and `grant.revoke`, which undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import DomainRef, GfnArg, GrantRefArg, Rights
from hvfuzz.abi.limits import MAX_GFN
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.domains import Grant
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.ipc import grants
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, READ, RIGHTS, WRITE, leaf_frame

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


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
        """Checks, in order: arguments, frame, ownership, the caller's rights, free entry."""
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
        # Without this check, a domain could pass on a frame that was only granted to it.
        if leaf & FOREIGN or hv.frames.owner(frame) != caller.id:
            return Refused(Status.NOT_OWNER, "gfn not the caller's")
        # Without this check, a domain could give away rights that it lacks itself.
        if rights & ~leaf:
            return Refused(Status.NOT_PERMITTED, "caller lacks the rights")
        ref = caller.grants.lowest_free()
        if ref < 0:
            return Refused(Status.LIMIT, "all entries taken")
        return Effect((CreateGrant(caller.id, ref, Grant(gfn, frame, to.id, rights)),), ref)


class CreateGrant(NamedTuple):
    """Set grant entry `ref` of `domain` to `entry`."""

    domain: int
    ref: int
    entry: Grant

    def apply(self, hv: Hypervisor) -> None:
        """Write the entry, and count it in the frame."""
        hv.domains[self.domain].grants[self.ref] = self.entry
        hv.frames.add_grant(self.entry.frame)


@hypercall(0x21, errors=(Status.NO_GRANT, Status.BUSY))
class Revoke:
    """Remove grant entry `ref`.

    - `NO_GRANT`: the caller has no live entry `ref`.
    - `BUSY`: a mapping of the entry exists.
    """

    ref: GrantRefArg

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: entry live, no mappings left."""
        entry = grants.live_entry(caller, self.ref)
        if entry is None:
            return Refused(Status.NO_GRANT, "entry not live")
        # Without this check, a granter could free a frame that the other domain still has mapped.
        if entry.host_pins or entry.device_pins:
            return Refused(Status.BUSY, "entry mapped")
        return Effect((RevokeGrant(caller.id, self.ref),))


class RevokeGrant(NamedTuple):
    """Free grant entry `ref` of `domain`."""

    domain: int
    ref: int

    def apply(self, hv: Hypervisor) -> None:
        """Clear the entry, and drop its count in the frame."""
        grants = hv.domains[self.domain].grants
        entry = grants[self.ref]
        if entry is None:
            raise HostBug("a checked grant entry is free")
        grants[self.ref] = None
        hv.frames.drop_grant(entry.frame)
