"""A booted world whose caches hold translations of one page of dom1, by its vCPU and by its device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.machine.addresses import READ, WRITE

GVA = 0xFFFF_8800_0005_0000


GFN = 0x50


@pytest.fixture
def stale(watched: Callable[..., Any]) -> Any:
    return watched("stale")


@pytest.fixture
def cached(stale: Any) -> Any:
    """The oracle `stale`, and the caches filled: dom1 has stored to its page, and its device has accessed it by DMA."""
    stale.machine.vcpus[1].store(GVA, 8, 1)
    stale.run(f"device.dma_map(dom1, iova=0x5000, gfn={GFN}, count=1, rights=R|W)")
    stale.machine.iommu.translate(stale.machine.devices[0].bdf, 0x5000, READ | WRITE)
    return stale


@pytest.fixture
def cached_structures(cached: Any) -> Any:
    """As `cached`, but only the paging-structure caches are filled."""
    tlb = cached.machine.tlb
    tlb.combined.clear()
    tlb.guest_physical.clear()
    cached.machine.iommu.iotlb.clear()
    return cached
