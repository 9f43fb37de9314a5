"""Reserved memory regions (RMRR): host memory that firmware reserves for devices, from the DMAR table (VT-d spec 8.4).

A region must stay identity-mapped in the domain its device is assigned to: a device that firmware started goes on
using it. No domain's stage 2 maps it, and no domain can map its device addresses to anything else. Xen violated these
rules (XSA-378, XSA-400).
"""

from __future__ import annotations

from hvfuzz.hypervisor.core.host import HostFault, HostMemory
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.vtd import dmar

Regions = dict[int, range]
"""Device (bdf) -> the host frames of its region."""


def read_regions(host: HostMemory, address: int) -> Regions:
    """Parse the DMAR table at host physical `address`; returns at most one region for each device.

    Raises HostFault if there is no valid table, or it describes a region that this hypervisor does not support: it is
    not safe to ignore one (VT-d spec 8.4).
    """
    signature, length, *_ = dmar.HEADER.unpack(host.read(address, dmar.HEADER.size))
    if signature != dmar.SIGNATURE:
        raise HostFault(f"no DMAR table at {address:#x}")
    table = host.read(address, length)
    # VT-d spec 8.1: all bytes of the table add up to zero, modulo 256.
    if sum(table) & 0xFF:
        raise HostFault("DMAR table: wrong checksum")
    regions: Regions = {}
    at, units = dmar.HEADER.size, 0
    while at < length:
        kind, size = dmar.STRUCTURE.unpack_from(table, at)
        # VT-d spec 8.2: each structure gives its own length. A length of zero would loop for ever.
        if size < dmar.STRUCTURE.size or at + size > length:
            raise HostFault(f"DMAR table: structure of {size} bytes at offset {at}")
        if kind == dmar.DRHD_TYPE:
            units += 1
        elif kind == dmar.RMRR_TYPE:
            _read_region(table[at : at + size], regions)
        at += size
    if units != 1:
        raise HostFault(f"DMAR table: {units} IOMMUs, supported: 1")
    return regions


def _read_region(structure: bytes, regions: Regions) -> None:
    """Add the region of one RMRR structure, for each device in its scope."""
    if len(structure) < dmar.RMRR.size:
        raise HostFault(f"DMAR table: RMRR structure of {len(structure)} bytes")
    _, _, _, segment, base, limit = dmar.RMRR.unpack_from(structure)
    # VT-d spec 8.4: base is 4 KiB aligned, limit the last byte of a page. Only PCI segment 0 exists here.
    if segment or base & PAGE_MASK or ~limit & PAGE_MASK or limit < base:
        raise HostFault(f"DMAR table: reserved region {base:#x} to {limit:#x} of segment {segment}")
    at = dmar.RMRR.size
    while at < len(structure):
        if len(structure) - at < dmar.SCOPE.size + dmar.PATH.size:
            raise HostFault("DMAR table: truncated device scope of a reserved region")
        kind, size, _, _, bus = dmar.SCOPE.unpack_from(structure, at)
        # VT-d spec 8.3.1: a path of one element names an endpoint on the start bus.
        if kind != dmar.SCOPE_ENDPOINT or size != dmar.SCOPE.size + dmar.PATH.size:
            raise HostFault(f"DMAR table: reserved region for an unsupported device scope (type {kind})")
        device, function = dmar.PATH.unpack_from(structure, at + dmar.SCOPE.size)
        bdf = bus << 8 | device << 3 | function
        if bdf in regions:
            raise HostFault(f"DMAR table: two reserved regions for device {bdf:#06x}")
        regions[bdf] = range(base >> PAGE_SHIFT, (limit >> PAGE_SHIFT) + 1)
        at += size
