"""The oracle `stale`: a cache that still holds what was removed from the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.machine.addresses import PAGE_SHIFT

GVA = 0xFFFF_8800_0005_0000
GFN = 0x50


def combined_only(rig: Any) -> None:
    rig.machine.tlb.guest_physical.clear()


def guest_physical_only(rig: Any) -> None:
    rig.machine.tlb.combined.clear()


@pytest.mark.parametrize("keep", [combined_only, guest_physical_only])
@pytest.mark.parametrize("entry", [0, "read-only", "other frame"])
def test_leaf_of_stage_2(cached: Any, keep: Callable[[Any], None], entry: Any) -> None:
    keep(cached)
    place = cached.entry(1, GFN)
    old = cached.memory.load64(place)
    new = {"read-only": old & ~2, "other frame": old ^ 1 << PAGE_SHIFT}.get(entry, entry)
    assert cached.poke(place, new) == ["stale/tlb"]


TABLE_GFN = 4
"""The page table of the direct map below 2 MiB."""


@pytest.mark.parametrize("entry", [0, "read-only", "other frame"])
def test_leaf_of_a_frame_where_walks_begin(cached_structures: Any, entry: Any) -> None:
    place = cached_structures.entry(1, TABLE_GFN)
    old = cached_structures.memory.load64(place)
    new = {"read-only": old & ~2, "other frame": old ^ 1 << PAGE_SHIFT}.get(entry, entry)
    assert cached_structures.poke(place, new) == ["stale/structure"]
    found = cached_structures.during(cached_structures.suite.audit)
    assert (set(found), len(found) > 1) == ({"stale/structure"}, True)
    cached_structures.machine.tlb.invept(None)
    assert cached_structures.during(cached_structures.suite.audit) == found


@pytest.mark.parametrize("value", [0, "other table"])
def test_ept_table_that_is_taken_out_while_walks_begin_there(cached_structures: Any, value: Any) -> None:
    cached_structures.machine.tlb.structures.combined.clear()
    (key, below), *_ = (
        item for item in cached_structures.machine.tlb.structures.guest_physical.items() if item[0][1] == 2
    )
    words = cached_structures.memory.words
    upper = key[0]
    for shift in (39, 30):
        upper = words[(upper >> 3) + (key[2] << 21 >> shift & 511)] & 0xFF_FFFF_F000
    place = upper + 8 * (key[2] & 511)
    assert words[place >> 3] & 0xFF_FFFF_F000 == below[0]
    assert "stale/structure" in cached_structures.poke(place, 0 if value == 0 else words[place >> 3] ^ 1 << PAGE_SHIFT)
    assert cached_structures.during(lambda: cached_structures.suite.frame_freed(below[0] >> PAGE_SHIFT))[-1:] == [
        "stale/structure"
    ]


def test_more_rights_need_no_flush(cached: Any) -> None:
    place = cached.entry(1, GFN)
    old = cached.memory.load64(place)
    cached.machine.tlb.invept(None)
    cached.poke(place, old & ~2)
    cached.machine.vcpus[1].load(GVA, 8)
    assert cached.poke(place, old) == []


def test_leaf_of_another_page(cached: Any) -> None:
    assert cached.poke(cached.entry(1, GFN + 1), 0) == []


def test_same_page_of_another_domain(cached: Any) -> None:
    assert cached.poke(cached.entry(2, GFN), 0) == []


def test_large_leaf(stale: Any) -> None:
    stale.run(
        "memory.populate(dom1, first=0x200, count=1, order=9)", "store(dom1, gva=0xffff880000234000, size=8, value=1)"
    )
    assert stale.poke(stale.entry(1, 0x200), 0) == ["stale/tlb"]


@pytest.mark.parametrize("entry", [0, "read-only", "other frame"])
def test_leaf_of_a_device(cached: Any, entry: Any) -> None:
    place = cached.entry(1, 5, dma=True)
    old = cached.memory.load64(place)
    new = {"read-only": old & ~2, "other frame": old ^ 1 << PAGE_SHIFT}.get(entry, entry)
    assert cached.poke(place, new) == ["stale/iotlb"]


def test_context_entry(cached: Any) -> None:
    low = cached.hv.iommu.buses[0] + (cached.machine.devices[0].bdf & 0xFF) * 16
    cached.machine.iommu.iotlb.clear()
    assert cached.poke(low, 0) == ["stale/context"]


def test_translations_of_a_domain_that_has_no_device_any_more(cached: Any) -> None:
    low = cached.hv.iommu.buses[0] + (cached.machine.devices[0].bdf & 0xFF) * 16
    cached.machine.iommu.context_cache.clear()
    assert cached.poke(low, 0) == ["stale/iotlb"]


BLOCK = "memory.populate(dom1, first=0x200, count=1, order=9)"


def test_legal_changes_are_silent(cached: Any) -> None:
    trace = cached.run(
        "device.dma_unmap(dom1, iova=0x5000, count=1)",
        f"memory.protect(dom1, first={GFN}, count=1, rights=R)",
        f"load(dom1, gva={GVA}, size=8)",
        f"memory.exchange(dom1, gfns=[{GFN}], out=0xffff880000011000, count=1)",
        f"load(dom1, gva={GVA}, size=8)",
        f"memory.decrease(dom1, first={GFN}, count=1)",
        "device.deassign(dom0, device=0)",
    )
    assert all(outcome.status == 0 for outcome in trace.outcomes)
    cached.suite.audit()
    assert cached.rules == []
