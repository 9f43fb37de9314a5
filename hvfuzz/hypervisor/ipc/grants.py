"""Grant entries and the mappings made from them: lookup, and reference counting.

A grant entry of the granter and a handle of the mapper refer to each other. Each side of a mapping (host: the mapper's
stage 2; device: its IOMMU table) is counted three times: in the handle, in the entry's pins, and in the pins of the
frame. One step changes all three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.abi.limits import GRANTS, HANDLES
from hvfuzz.hypervisor.core.domains import Grant, Mapping
from hvfuzz.hypervisor.core.host import HostBug

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.interfaces import GrantTables


HOST = 1


DEVICE = 2


NO_GVA = -1
"""Guest address reported to the observer for guest memory that was found by frame."""


def live_entry(domain: Domain, ref: int) -> Grant | None:
    """The live entry `ref` of `domain`; None if it is free or does not exist."""
    return domain.grants[ref] if ref < GRANTS else None


def live_grant(granter: Domain, ref: int, caller: Domain) -> Grant | None:
    """The live entry `ref` of `granter` that grants to `caller`; None if there is none.

    Without the check of `to`, any domain could map pages that are granted to another.
    """
    entry = live_entry(granter, ref)
    return entry if entry is not None and entry.to == caller.id else None


def live_mapping(domain: Domain, handle: int) -> Mapping | None:
    """The mapping of `handle` of `domain`; None if the handle is free or does not exist."""
    return domain.handles[handle] if handle < HANDLES else None


def pin(hv: GrantTables, mapping: Mapping, sides: int, delta: int) -> None:
    """Add `delta` (1 or -1) to the pins of each of the `sides`, in the grant entry and in the frame."""
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


def sides_of(mapping: Mapping) -> int:
    """The mapped sides of `mapping`, as flags (HOST, DEVICE)."""
    return (HOST if mapping.host else 0) | (DEVICE if mapping.device else 0)
