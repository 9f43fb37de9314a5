"""Reserved memory regions (RMRR): host memory that firmware reserves for devices, from the DMAR table (VT-d spec 8.4).

A region must stay identity-mapped in the domain its device is assigned to: a device that firmware started goes on
using it. No domain's stage 2 maps it, and no domain can map its device addresses to anything else. Xen violated these
rules (XSA-378, XSA-400).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hvfuzz.hypervisor.core.host import HostFault, HostMemory
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.vtd import dmar

DEVICES_PER_BUS: Final = 32
FUNCTIONS: Final = 8
Regions = dict[int, range]
"""Device (bdf) -> the host frames of its region."""


def read_regions(host: HostMemory, address: int) -> Regions:
    """Parse the DMAR table at host physical `address`; returns at most one region for each device.

    Raises HostFault, which stops the boot, if there is no valid table, or it describes what this hypervisor does not
    support: it is not safe to ignore a region (VT-d spec 8.4). In the order of the bytes:

        header      signature, a length that holds the header and lies in memory, checksum (8.1)
        structure   a length that holds type and length, and ends within the table; nothing is left over (8.2)
        DRHD        its fixed part, segment 0, page-aligned registers, whole device scopes; exactly one (8.3)
        RMRR        its fixed part, segment 0, whole pages within memory, at least one device (8.4)
        scope       of an RMRR: an endpoint by a path of one element, each device once, each page for one device (8.3.1)

    Structures of other types are skipped, as 8.2 demands. Reserved fields, OEM fields and revisions are not looked at.
    """
    signature, length, *_ = dmar.HEADER.unpack(host.read(address, dmar.HEADER.size))
    if signature != dmar.SIGNATURE:
        raise HostFault(f"no DMAR table at {address:#x}")
    if length < dmar.HEADER.size:
        raise HostFault(f"DMAR table: {length} bytes are less than its header")
    table = host.read(address, length)
    # VT-d spec 8.1: all bytes of the table add up to zero, modulo 256.
    if sum(table) & 0xFF:
        raise HostFault("DMAR table: wrong checksum")
    regions: Regions = {}
    units = 0
    for at, kind, structure in _structures(table):
        if kind == dmar.DRHD_TYPE:
            _check_unit(structure, at)
            units += 1
        elif kind == dmar.RMRR_TYPE:
            _read_region(structure, at, host.memory.size, regions)
    if units != 1:
        raise HostFault(f"DMAR table: {units} IOMMUs, supported: 1")
    return regions


def _structures(table: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(offset, type, bytes) of each remapping structure."""
    at = dmar.HEADER.size
    while at < len(table):
        if len(table) - at < dmar.STRUCTURE.size:
            raise HostFault(f"DMAR table: {len(table) - at} bytes are left at offset {at}")
        kind, size = dmar.STRUCTURE.unpack_from(table, at)
        # VT-d spec 8.2: each structure gives its own length. A length of zero would loop for ever.
        if size < dmar.STRUCTURE.size or at + size > len(table):
            raise HostFault(f"DMAR table: structure of {size} bytes at offset {at}")
        yield at, kind, table[at : at + size]
        at += size


def _check_unit(structure: bytes, at: int) -> None:
    """Check a DRHD structure. Its scopes need not be read: the only IOMMU remaps every device."""
    if len(structure) < dmar.DRHD.size:
        raise HostFault(f"DMAR table: DRHD structure of {len(structure)} bytes at offset {at}")
    _, _, _, _, segment, registers = dmar.DRHD.unpack_from(structure)
    if segment or registers & PAGE_MASK:
        raise HostFault(f"DMAR table: IOMMU of segment {segment} with registers at {registers:#x}")
    for _ in _scopes(structure, dmar.DRHD.size, at):
        pass


def _read_region(structure: bytes, at: int, memory: int, regions: Regions) -> None:
    """Add the region of an RMRR structure for its device; `memory` is the size of memory in bytes."""
    if len(structure) < dmar.RMRR.size:
        raise HostFault(f"DMAR table: RMRR structure of {len(structure)} bytes at offset {at}")
    _, _, _, segment, base, limit = dmar.RMRR.unpack_from(structure)
    # VT-d spec 8.4: base is 4 KiB aligned, limit the last byte of a page. Only PCI segment 0 exists here.
    if segment or base & PAGE_MASK or ~limit & PAGE_MASK or limit < base or limit >= memory:
        raise HostFault(f"DMAR table: reserved region {base:#x} to {limit:#x} of segment {segment}")
    region = range(base >> PAGE_SHIFT, (limit >> PAGE_SHIFT) + 1)
    devices = 0
    for kind, scope in _scopes(structure, dmar.RMRR.size, at):
        # VT-d spec 8.3.1: a path of one element names an endpoint on the start bus.
        if kind != dmar.SCOPE_ENDPOINT or len(scope) != dmar.SCOPE.size + dmar.PATH.size:
            raise HostFault(f"DMAR table: reserved region for an unsupported device scope (type {kind})")
        *_, bus = dmar.SCOPE.unpack_from(scope)
        device, function = dmar.PATH.unpack_from(scope, dmar.SCOPE.size)
        if device >= DEVICES_PER_BUS or function >= FUNCTIONS:
            raise HostFault(f"DMAR table: reserved region for device {device}, function {function}")
        bdf = bus << 8 | device << 3 | function
        if bdf in regions:
            raise HostFault(f"DMAR table: two reserved regions for device {bdf:#06x}")
        # Two domains, each with one of the devices, would share the memory.
        if any(region.start < other.stop and other.start < region.stop for other in regions.values()):
            raise HostFault(f"DMAR table: the reserved region of device {bdf:#06x} is also another's")
        regions[bdf] = region
        devices += 1
    if not devices:
        raise HostFault(f"DMAR table: reserved region {base:#x} to {limit:#x} for no device")


def _scopes(structure: bytes, at: int, start: int) -> Iterator[tuple[int, bytes]]:
    """(type, bytes) of each device scope from offset `at` on, of the structure at offset `start` of the table."""
    while at < len(structure):
        left = len(structure) - at
        kind, size = structure[at], structure[at + 1] if left > 1 else 0
        if size < dmar.SCOPE.size + dmar.PATH.size or size > left:
            raise HostFault(f"DMAR table: truncated device scope at offset {start + at}")
        yield kind, structure[at : at + size]
        at += size
