"""A frame that is freed while a leaf or a cache still names it."""

from __future__ import annotations

from typing import Any

import pytest

from hvfuzz.hypervisor.hypercalls.memory.reservation import RemoveBlock, RemovePage
from hvfuzz.hypervisor.memory.frames import FrameTable
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.machine.addresses import PAGE_SHIFT

GVA = 0xFFFF_8800_0005_0000


GFN = 0x50


TABLE_GFN = 4
"""The page table of the direct map below 2 MiB."""


def test_frame_that_is_freed_while_walks_begin_there(cached_structures: Any) -> None:
    frame = cached_structures.frame(1, TABLE_GFN)
    assert cached_structures.during(lambda: cached_structures.suite.frame_freed(frame)) == [
        "stale/leaf",
        "stale/structure",
    ]


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
        # Without counting, so that the host survives it.
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
    """After the step the caches are clean, but the frame was freed before the flush."""
    monkeypatch.setattr(Stage2, "flush", lambda _self: None)
    cached.run("device.dma_unmap(dom1, iova=0x5000, count=1)", f"memory.decrease(dom1, first={GFN}, count=1)")
    cached.machine.tlb.invept(None)
    assert cached.rules == ["stale/tlb"]
