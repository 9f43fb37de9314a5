"""Grant entries and the mappings made from them: how they are found, and the steps that change them.

A grant entry of the granter and a handle of the mapper refer to each other.  Every side of a mapping (host: the
mapper's stage 2, device: its IOMMU table) is counted three times: in the handle, in the entry's pins, and in the
pins of the frame; they change in one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.limits import GRANTS, HANDLES
from hvfuzz.hypervisor.core.domains import Grant, Mapping
from hvfuzz.hypervisor.core.effects import RELEASE_WORK, Step
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.clock import Cost

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

HOST = 1
DEVICE = 2
NO_GVA = -1
"""To the observer: these bytes are guest memory that was found without an address of the guest."""


def live_entry(domain: Domain, ref: int) -> Grant | None:
    """The entry `ref` of `domain`, if there is one and it is live."""
    return domain.grants[ref] if ref < GRANTS else None


def live_grant(granter: Domain, ref: int, caller: Domain) -> Grant | None:
    """The live entry `ref` of `granter`, if it is meant for `caller`."""
    entry = live_entry(granter, ref)
    return entry if entry is not None and entry.to == caller.id else None


def live_mapping(domain: Domain, handle: int) -> Mapping | None:
    """The mapping that `handle` of `domain` stands for, if there is one."""
    return domain.handles[handle] if handle < HANDLES else None


class CreateGrant(NamedTuple):
    """Entry `ref` of `domain` becomes `entry`."""

    domain: int
    ref: int
    entry: Grant

    def apply(self, hv: Hypervisor) -> None:
        """Write the entry, count it in the frame."""
        hv.domains[self.domain].grants[self.ref] = self.entry
        hv.frames.add_grant(self.entry.frame)


class RevokeGrant(NamedTuple):
    """Entry `ref` of `domain` is free."""

    domain: int
    ref: int

    def apply(self, hv: Hypervisor) -> None:
        """Clear the entry, count it in the frame."""
        grants = hv.domains[self.domain].grants
        entry = grants[self.ref]
        if entry is None:
            raise HostBug("a checked grant entry is free")
        grants[self.ref] = None
        hv.frames.drop_grant(entry.frame)


def pin(hv: Hypervisor, mapping: Mapping, sides: int, delta: int) -> None:
    """Count `delta` (1 or -1) live mapping for each of the `sides`, in the grant entry and in the frame."""
    grants = hv.domains[mapping.granter].grants
    entry = grants[mapping.ref]
    if entry is None:
        raise HostBug("a mapped grant entry is free")
    host = delta if sides & HOST else 0
    device = delta if sides & DEVICE else 0
    host_pins, device_pins = entry.host_pins + host, entry.device_pins + device
    if host_pins < 0 or device_pins < 0:
        raise HostBug("a grant entry is unpinned more often than pinned")
    grants[mapping.ref] = entry._replace(host_pins=host_pins, device_pins=device_pins)
    change = hv.frames.add_pin if delta > 0 else hv.frames.drop_pin
    for _ in range(abs(host) + abs(device)):
        change(mapping.frame)


class MapGrant(NamedTuple):
    """`handle` of `domain` becomes `mapping`, whose sides are pinned and then mapped."""

    domain: int
    handle: int
    mapping: Mapping

    def apply(self, hv: Hypervisor) -> None:
        """Pin first: at no moment is there a leaf that nobody counts."""
        domain, mapping = hv.domains[self.domain], self.mapping
        domain.handles[self.handle] = mapping
        pin(hv, mapping, sides_of(mapping), 1)
        if mapping.host:
            domain.stage2.map(mapping.gfn, mapping.frame, mapping.rights, foreign=True)
        if mapping.device:
            domain.dma.map(mapping.iova >> PAGE_SHIFT, mapping.frame, mapping.rights, foreign=True)


class ReleaseSide(NamedTuple):
    """One side (HOST or DEVICE) of `handle` of `domain` is unmapped, flushed and unpinned."""

    domain: int
    handle: int
    side: int

    @property
    def work(self) -> int:
        """The unit of which a burst of `grant.unmap` has 8."""
        return RELEASE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Unmap and flush first: the frame may be gone as soon as the reference is dropped."""
        domain = hv.domains[self.domain]
        mapping = domain.handles[self.handle]
        if mapping is None:
            raise HostBug("a checked handle is free")
        unmap_side(domain, mapping, self.side)
        drop_reference(hv, domain, self.handle, mapping, self.side)


def sides_of(mapping: Mapping) -> int:
    """The sides that a mapping has, as flags."""
    return (HOST if mapping.host else 0) | (DEVICE if mapping.device else 0)


def unmap_side(domain: Domain, mapping: Mapping, side: int) -> None:
    """Remove and flush the leaf of one side of a mapping."""
    if side == HOST:
        if not domain.stage2.unmap(mapping.gfn):
            raise HostBug("a grant mapping lies in a superpage")
    else:
        domain.dma.unmap(mapping.iova >> PAGE_SHIFT)


def drop_reference(hv: Hypervisor, domain: Domain, handle: int, mapping: Mapping, side: int) -> None:
    """`side` of the mapping is unmapped: unpin it, and free the handle with the last side."""
    pin(hv, mapping, side, -1)
    set_sides(domain, handle, mapping, sides_of(mapping) & ~side)


def set_sides(domain: Domain, handle: int, mapping: Mapping, sides: int) -> None:
    """Write back what is left of a mapping, whose handle is free when that is nothing."""
    if not sides:
        domain.handles[handle] = None
    elif sides == HOST:
        domain.handles[handle] = mapping._replace(device=False, iova=0)
    else:
        domain.handles[handle] = mapping._replace(host=False, gfn=0)


def release_steps(domain: Domain, mappings: list[tuple[int, Mapping]], flags: int) -> tuple[Step, ...]:
    """One step for each side that `flags` name and a mapping has: they are preempted in between."""
    return tuple(
        ReleaseSide(domain.id, handle, side)
        for handle, mapping in mappings
        for side in (HOST, DEVICE)
        if side & flags & sides_of(mapping)
    )


class CopyBytes(NamedTuple):
    """`length` bytes go from host physical `source` to `dest`, each range in one frame, on behalf of a vCPU."""

    vcpu: int
    source: int
    dest: int
    length: int

    def apply(self, hv: Hypervisor) -> None:
        """As memmove: the ranges may overlap."""
        copy_bytes(hv, hv.machine.vcpus[self.vcpu], self.source, self.dest, self.length)


def copy_bytes(hv: Hypervisor, vcpu: VCpu, source: int, dest: int, length: int) -> None:
    """Copy between two frames that were validated for the vCPU; neither has a Gva of its own here."""
    observer = hv.observer
    observer.guest_copy(vcpu, NO_GVA, source, length, False)
    observer.guest_copy(vcpu, NO_GVA, dest, length, True)
    machine = hv.machine
    machine.clock.cycles += Cost.COPY_PER_64B * ((length + 63) >> 6)
    machine.memory.copy(dest, source, length)
