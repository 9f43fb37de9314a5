"""What a hypervisor must make of a DMAR table: Intel's VT-d specification (D51397), chapter 8.

It is not safe to ignore a region, so a table that is damaged, or says what is not supported, must stop the boot. There
is one IOMMU and one PCI segment, and each region is for endpoints on a root bus, none of which has another region.
"""

from __future__ import annotations

from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT

HEAD: Final = 48
"""Bytes before the first structure (8.1)."""
UNIT, REGION = 0, 1
"""Types of structures: DRHD (8.3) and RMRR (8.4)."""
UNIT_SIZE, REGION_SIZE, SCOPE_SIZE, PATH_SIZE = 16, 24, 6, 2
ENDPOINT: Final = 1
Regions = dict[int, range]
"""Device (bdf) -> the host frames of its region."""


def number(data: bytes, at: int, size: int) -> int:
    """The little-endian number of `size` bytes at offset `at`."""
    return int.from_bytes(data[at : at + size], "little")


def regions(memory: bytes, size: int) -> Regions | None:
    """The regions of the table at the start of `memory`; None if the boot must stop.

    `memory` is what lies from the table to the end of memory, which has `size` bytes.
    """
    length = number(memory, 4, 4)
    table = memory[:length]
    if memory[:4] != b"DMAR" or length < HEAD or len(table) < length or sum(table) % 256:
        return None
    found: Regions = {}
    units, at = 0, HEAD
    while at < length:
        kind, long = number(table, at, 2), number(table, at + 2, 2)
        structure = table[at : at + long]
        if length - at < 4 or long < 4 or len(structure) < long:
            return None
        at += long
        if kind == UNIT:
            units += 1
            if not _is_unit(structure):
                return None
        elif kind == REGION:
            region = _region(structure, size)
            if region is None:
                return None
            for bdf in region[1]:
                if bdf in found or any(not _apart(region[0], other) for other in found.values()):
                    return None
                found[bdf] = region[0]
    return found if units == 1 else None


def _apart(one: range, other: range) -> bool:
    return one.stop <= other.start or other.stop <= one.start


def _is_unit(structure: bytes) -> bool:
    """An IOMMU of segment 0, whose registers are a page, with whole scopes (8.3)."""
    whole = len(structure) >= UNIT_SIZE and _scopes(structure, UNIT_SIZE) is not None
    return whole and number(structure, 6, 2) == 0 and not number(structure, 8, 8) & PAGE_MASK


def _region(structure: bytes, size: int) -> tuple[range, list[int]] | None:
    """The frames and the devices of a region (8.4)."""
    scopes = _scopes(structure, REGION_SIZE) if len(structure) >= REGION_SIZE else None
    if not scopes:
        return None
    base, limit = number(structure, 8, 8), number(structure, 16, 8)
    if number(structure, 6, 2) or base & PAGE_MASK or limit & PAGE_MASK != PAGE_MASK or not base <= limit < size:
        return None
    devices = []
    for scope in scopes:
        if scope[0] != ENDPOINT or len(scope) != SCOPE_SIZE + PATH_SIZE or scope[6] > 31 or scope[7] > 7:
            return None
        devices.append(scope[5] << 8 | scope[6] << 3 | scope[7])
    return range(base >> PAGE_SHIFT, limit + 1 >> PAGE_SHIFT), devices


def _scopes(structure: bytes, at: int) -> list[bytes] | None:
    """The device scopes from offset `at` on; None if one is cut short (8.3.1)."""
    found = []
    while at < len(structure):
        long = number(structure, at + 1, 1)
        scope = structure[at : at + long]
        if long < SCOPE_SIZE + PATH_SIZE or len(scope) < long:
            return None
        found.append(scope)
        at += long
    return found
