"""Checks of the ranges of addresses and pages in a guest's arguments."""

from __future__ import annotations

from hvfuzz.abi.boot import HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START


def valid_range(gva: int, size: int) -> bool:
    """Whether the range is valid as an argument: it does not wrap, is canonical, and avoids the hypervisor's hole."""
    end = gva + size
    if not size:
        return True
    if end <= 1 << 47:
        return True
    if gva < 2**64 - 2**47 or end > 2**64:
        return False
    return end <= HYPERVISOR_HOLE_START or gva >= HYPERVISOR_HOLE_END


def pages_in(first: int, count: int, limit: int, most: int) -> bool:
    """Whether `count` pages from `first` on are a valid range: 1 to `most` of them, all below `limit`."""
    return 0 < count <= most and first + count <= limit
