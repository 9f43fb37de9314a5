"""Reserved memory regions: what of host memory firmware keeps for devices, read from the DMAR table (VT-d spec 8.4).

Such a region has to be mapped, at its own address, wherever its device is assigned to, and for as long: a device that
firmware set to work goes on using it. No domain's stage 2 ever names it, and no domain can use its addresses for
anything else. Xen had all of this to learn: XSA-378, XSA-400.
"""

from __future__ import annotations

from hvfuzz.hypervisor.core.host import HostFault, HostMemory
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.vtd import dmar

Regions = dict[int, range]
"""Device (bdf) -> the frames of its region."""


def read_regions(host: HostMemory, address: int) -> Regions:
    """The regions that the DMAR table at host physical `address` describes, one at most for each device.

    Raises HostFault if the table is none, or describes what this hypervisor cannot honour: it would not be safe to go
    on without (VT-d spec 8.4, on regions that are not in a form that software knows).
    """
    signature, length, *_ = dmar.HEADER.unpack(host.read(address, dmar.HEADER.size))
    if signature != dmar.SIGNATURE:
        raise HostFault(f"no DMAR table at {address:#x}")
    table = host.read(address, length)
    if sum(table) & 0xFF:
        raise HostFault("the checksum of the DMAR table is wrong")
    regions: Regions = {}
    at, units = dmar.HEADER.size, 0
    while at < length:
        kind, size = dmar.STRUCTURE.unpack_from(table, at)
        if size < dmar.STRUCTURE.size or at + size > length:
            raise HostFault(f"a structure of {size} bytes at offset {at} of the DMAR table")
        if kind == dmar.DRHD_TYPE:
            units += 1
        elif kind == dmar.RMRR_TYPE:
            _read_region(table[at : at + size], regions)
        at += size
    if units != 1:
        raise HostFault(f"{units} IOMMUs")
    return regions


def _read_region(structure: bytes, regions: Regions) -> None:
    """Add the region of one RMRR structure, for each device in its scope."""
    if len(structure) < dmar.RMRR.size:
        raise HostFault(f"a reserved region in {len(structure)} bytes")
    _, _, _, segment, base, limit = dmar.RMRR.unpack_from(structure)
    if segment or base & PAGE_MASK or ~limit & PAGE_MASK or limit < base:
        raise HostFault(f"reserved region {base:#x} to {limit:#x} of segment {segment}")
    at = dmar.RMRR.size
    while at < len(structure):
        if len(structure) - at < dmar.SCOPE.size + dmar.PATH.size:
            raise HostFault("a reserved region for a device that is not said")
        kind, size, _, _, bus = dmar.SCOPE.unpack_from(structure, at)
        if kind != dmar.SCOPE_ENDPOINT or size != dmar.SCOPE.size + dmar.PATH.size:
            raise HostFault(f"a reserved region for a device behind a bridge, or for what is none ({kind})")
        device, function = dmar.PATH.unpack_from(structure, at + dmar.SCOPE.size)
        bdf = bus << 8 | device << 3 | function
        if bdf in regions:
            raise HostFault(f"two reserved regions for device {bdf:#06x}")
        regions[bdf] = range(base >> PAGE_SHIFT, (limit >> PAGE_SHIFT) + 1)
        at += size
