"""Single cached entries: kept alone, or dropped alone, oldest first."""

import pytest

from hvfuzz.machine.cached_entries import Cache, evict, retain
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.vtd.legacy_mode import TranslationType
from hvfuzz.machine.vtd.walker import Context

COUNTS = {Cache.TLB: 5, Cache.PAGING: 4, Cache.IOTLB: 3, Cache.CONTEXT: 2}


@pytest.fixture
def machine() -> Machine:
    """A machine with as many cached entries as COUNTS says, of both kinds where there are two."""
    machine = Machine(1 << 20)
    tlb, iommu = machine.tlb, machine.iommu
    for page in range(3):
        tlb.insert((1, 0, 0x1000, page), (page << 12, 7, False, False, 0, page << 12))
        iommu.iotlb[2, page] = (page << 12, 3)
    for page in range(2):
        tlb.insert_guest_physical((0x1000, page), (page << 12, 7, 0))
        iommu.context_cache[page] = Context(2, 0x5000, 3, TranslationType.TRANSLATE, False)
        tlb.structures.keep(1, 0, 0x1000, page << 21, [(0x2000, 0x2000, 7, 3, 0, 2)])
        tlb.structures.keep_ept(0x1000, page << 21, [(0x3000, 7, 2)])
    return machine


def keys(machine: Machine) -> dict[Cache, list[object]]:
    """By cache: the keys of its entries, in order."""
    tlb, iommu = machine.tlb, machine.iommu
    return {
        Cache.TLB: [*tlb.combined, *tlb.guest_physical],
        Cache.PAGING: [*tlb.structures.combined, *tlb.structures.guest_physical],
        Cache.IOTLB: [*iommu.iotlb],
        Cache.CONTEXT: [*iommu.context_cache],
    }


@pytest.mark.parametrize("cache", list(Cache))
@pytest.mark.parametrize("entry", [0, 1, 3, 4, 255])
def test_one_entry_is_kept(machine: Machine, cache: Cache, entry: int) -> None:
    before = keys(machine)
    assert {each: len(found) for each, found in before.items()} == COUNTS
    retain(machine, cache, entry)
    assert keys(machine) == {**before, cache: [before[cache][entry % COUNTS[cache]]]}
    assert machine.tlb.losses == 1


@pytest.mark.parametrize("cache", list(Cache))
@pytest.mark.parametrize("entry", [0, 1, 3, 4, 255])
def test_one_entry_is_dropped(machine: Machine, cache: Cache, entry: int) -> None:
    before = keys(machine)
    evict(machine, cache, entry)
    place = entry % COUNTS[cache]
    assert keys(machine) == {**before, cache: before[cache][:place] + before[cache][place + 1 :]}
    assert machine.tlb.losses == 1


@pytest.mark.parametrize("cache", list(Cache))
def test_nothing_is_lost_of_an_empty_cache(cache: Cache) -> None:
    machine = Machine(1 << 20)
    retain(machine, cache, 3)
    evict(machine, cache, 3)
    assert machine.tlb.losses == 0
