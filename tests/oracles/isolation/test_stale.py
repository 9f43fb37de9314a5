"""The oracle `stale`: what a cache still holds after the tables changed, or when a frame is freed, is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.hypercalls.memory.reservation import RemoveBlock, RemovePage
from hvfuzz.hypervisor.memory.frames import FrameTable
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.machine.addresses import PAGE_SHIFT, READ, WRITE

GVA = 0xFFFF_8800_0005_0000
GFN = 0x50


@pytest.fixture
def stale(watched: Callable[..., Any]) -> Any:
    return watched("stale")


@pytest.fixture
def cached(stale: Any) -> Any:
    """dom1 has used its page, and its device, by DMA, has used it too."""
    stale.machine.vcpus[1].store(GVA, 8, 1)
    stale.run(f"device.dma_map(dom1, iova=0x5000, gfn={GFN}, count=1, rights=R|W)")
    stale.machine.iommu.translate(stale.machine.devices[0].bdf, 0x5000, READ | WRITE)
    return stale


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


@pytest.fixture
def ways(cached: Any) -> Any:
    """Of all that dom1 has used, it is only cached where the tables lie."""
    tlb = cached.machine.tlb
    tlb.combined.clear()
    tlb.guest_physical.clear()
    cached.machine.iommu.iotlb.clear()
    return cached


@pytest.mark.parametrize("entry", [0, "read-only", "other frame"])
def test_leaf_of_a_frame_where_walks_begin(ways: Any, entry: Any) -> None:
    place = ways.entry(1, TABLE_GFN)
    old = ways.memory.load64(place)
    new = {"read-only": old & ~2, "other frame": old ^ 1 << PAGE_SHIFT}.get(entry, entry)
    assert ways.poke(place, new) == ["stale/structure"]
    found = ways.during(ways.suite.audit)
    assert (set(found), len(found) > 1) == ({"stale/structure"}, True)
    ways.machine.tlb.invept(None)
    assert ways.during(ways.suite.audit) == found


def test_frame_that_is_freed_while_walks_begin_there(ways: Any) -> None:
    frame = ways.frame(1, TABLE_GFN)
    assert ways.during(lambda: ways.suite.frame_freed(frame)) == ["stale/leaf", "stale/structure"]


@pytest.mark.parametrize("value", [0, "other table"])
def test_ept_table_that_is_taken_out_while_walks_begin_there(ways: Any, value: Any) -> None:
    ways.machine.tlb.structures.combined.clear()
    (key, below), *_ = (item for item in ways.machine.tlb.structures.guest_physical.items() if item[0][1] == 2)
    words = ways.memory.words
    upper = key[0]
    for shift in (39, 30):
        upper = words[(upper >> 3) + (key[2] << 21 >> shift & 511)] & 0xFF_FFFF_F000
    place = upper + 8 * (key[2] & 511)
    assert words[place >> 3] & 0xFF_FFFF_F000 == below[0]
    assert "stale/structure" in ways.poke(place, 0 if value == 0 else words[place >> 3] ^ 1 << PAGE_SHIFT)
    assert ways.during(lambda: ways.suite.frame_freed(below[0] >> PAGE_SHIFT))[-1:] == ["stale/structure"]


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


@pytest.mark.parametrize("cache", ["combined", "guest_physical"])
def test_frame_that_is_freed_with_its_translation(cached: Any, cache: str) -> None:
    for name in ("combined", "guest_physical"):
        if name != cache:
            getattr(cached.machine.tlb, name).clear()
    cached.machine.iommu.iotlb.clear()
    assert cached.during(lambda: cached.suite.frame_freed(cached.frame(1, GFN))) == ["stale/leaf", "stale/tlb"]


def test_frame_that_is_freed_with_its_device_translation(cached: Any) -> None:
    cached.machine.tlb.invept(None)
    assert cached.during(lambda: cached.suite.frame_freed(cached.frame(1, GFN))) == ["stale/leaf", "stale/iotlb"]


def test_translation_made_after_the_last_look(cached: Any) -> None:
    """The set of cached frames is kept between two frees, but not beyond a miss."""
    other = cached.frame(1, 0x51)
    place = cached.entry(1, 0x51)
    leaf = cached.memory.load64(place)
    cached.memory.store64(place, 0)
    cached.machine.tlb.invept(None)
    cached.machine.iommu.iotlb.clear()
    assert cached.during(lambda: cached.suite.frame_freed(other)) == []
    cached.memory.store64(place, leaf)
    cached.machine.vcpus[1].load(GVA + 0x1000, 8)
    cached.memory.store64(place, 0)
    assert cached.during(lambda: cached.suite.frame_freed(other)) == ["stale/tlb"]


def free_too_soon(self: RemovePage, hv: Any) -> None:
    hv.allocator.free_page(self.hfn)
    hv.domains[self.domain].stage2.unmap(self.gfn)


def free_block_too_soon(self: RemoveBlock, hv: Any) -> None:
    hv.allocator.free_block(self.hfn)
    hv.domains[self.domain].stage2.unmap_block(self.gfn)


BLOCK = "memory.populate(dom1, first=0x200, count=1, order=9)"


@pytest.mark.parametrize(("first", "count"), [(GFN, 1), (0x2FF, 1), (0x200, 512), (0x1FF, 2)])
@pytest.mark.parametrize("soon", [False, True])
def test_frame_that_is_freed_before_its_leaf_goes(
    stale: Any, monkeypatch: pytest.MonkeyPatch, soon: bool, first: int, count: int
) -> None:
    stale.run(BLOCK, "memory.populate(dom1, first=0x1ff, count=1, order=0)")
    if soon:
        monkeypatch.setattr(RemovePage, "apply", free_too_soon)
        monkeypatch.setattr(RemoveBlock, "apply", free_block_too_soon)
        # Counted nowhere, so that the host survives it.
        monkeypatch.setattr(FrameTable, "drop_map", lambda _self, _hfn: None)
        monkeypatch.setattr(FrameTable, "drop_block_map", lambda _self, _hfn: None)
    trace = stale.run(f"memory.decrease(dom1, first={first}, count={count})")
    assert [outcome.status for outcome in trace.outcomes] == [0]
    assert stale.rules == (["stale/leaf"] if soon else [])


def test_leaf_of_a_device_when_its_frame_is_freed(cached: Any) -> None:
    cached.machine.tlb.invept(None)
    cached.machine.iommu.iotlb.clear()
    cached.memory.store64(cached.entry(1, GFN), 0)
    freed = cached.memory.load64(cached.entry(1, 5, dma=True)) >> PAGE_SHIFT
    assert cached.during(lambda: cached.suite.frame_freed(freed)) == ["stale/leaf"]


def test_flush_that_comes_after_the_free(cached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order within a step: flushed at the end all is well again, and yet the frame was free too soon."""
    monkeypatch.setattr(Stage2, "flush", lambda _self: None)
    cached.run("device.dma_unmap(dom1, iova=0x5000, count=1)", f"memory.decrease(dom1, first={GFN}, count=1)")
    cached.machine.tlb.invept(None)
    assert cached.rules == ["stale/tlb"]


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
