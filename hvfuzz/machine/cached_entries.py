"""Single entries of the caches of translations, kept or dropped by chance.

A processor or an IOMMU may drop any cached entry at any time (SDM Vol. 3A, 4.10.2.2; VT-d spec 6.2.1), so software may
rely neither on an entry's presence nor on its absence. What matters most is that one entry outlives others that were
made with it: that of a table without its leaf, or a translation without its context entry.
"""

from enum import IntEnum
from typing import Any

from hvfuzz.machine.machine import Machine


class Cache(IntEnum):
    """The caches of a machine."""

    TLB = 0
    """Combined mappings, then guest-physical ones."""
    PAGING = 1
    """The paging-structure caches: combined entries, then guest-physical ones."""
    IOTLB = 2
    CONTEXT = 3
    """The context cache of the IOMMU."""


def retain(machine: Machine, cache: Cache, entry: int) -> None:
    """Drop all entries of `cache` but one: number `entry`, oldest first, modulo their number."""
    tables = _tables(machine, cache)
    kept = _find(tables, entry)
    if kept is None:
        return
    table, key = kept
    value = table[key]
    for each in tables:
        each.clear()
    table[key] = value
    machine.tlb.losses += 1


def evict(machine: Machine, cache: Cache, entry: int) -> None:
    """Drop one entry of `cache`: number `entry`, oldest first, modulo their number."""
    found = _find(_tables(machine, cache), entry)
    if found is None:
        return
    table, key = found
    del table[key]
    machine.tlb.losses += 1


def _tables(machine: Machine, cache: Cache) -> tuple[dict[Any, Any], ...]:
    """The entries of `cache` by key, each table oldest first."""
    tlb, iommu = machine.tlb, machine.iommu
    if cache is Cache.TLB:
        return tlb.combined, tlb.guest_physical
    if cache is Cache.PAGING:
        return tlb.structures.combined, tlb.structures.guest_physical
    return (iommu.iotlb,) if cache is Cache.IOTLB else (iommu.context_cache,)


def _find(tables: tuple[dict[Any, Any], ...], entry: int) -> tuple[dict[Any, Any], Any] | None:
    """The table and the key of entry number `entry` modulo the number of all entries; None if there is none."""
    entries = [(table, key) for table in tables for key in table]
    return entries[entry % len(entries)] if entries else None
