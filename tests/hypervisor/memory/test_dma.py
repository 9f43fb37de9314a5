"""Device tables: what the IOMMU hardware finds, what its caches forget in time, and who owns a device."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.domains import Domain
from hvfuzz.hypervisor.core.host import HostBug, HostFault
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.vtd.iommu import DmaFault

Audit = Callable[[Hypervisor], None]
RW = READ | WRITE
HIGH = (1 << 27) - 1
"""The last page of 39 bits."""


@pytest.fixture
def domain(hv: Hypervisor) -> Domain:
    return hv.domains[1]


def frame_of(domain: Domain, gfn: int) -> int:
    return guest_address(domain, gfn) >> PAGE_SHIFT


def reach(hv: Hypervisor, page: int, access: int = READ, device: int = 0) -> int:
    return hv.machine.iommu.translate(hv.machine.devices[device].bdf, page << PAGE_SHIFT, access) >> PAGE_SHIFT


@pytest.mark.parametrize("page", [0, 0x1FF, 0x12345, HIGH])
def test_a_device_reaches_what_is_mapped_and_nothing_after(
    hv: Hypervisor, domain: Domain, page: int, audit: Audit
) -> None:
    pool = len(domain.pool)
    hfn = frame_of(domain, 5)
    domain.dma.map(page, hfn, READ)
    assert reach(hv, page) == hfn
    assert hv.frames.frame(hfn).maps == 2
    with pytest.raises(DmaFault):
        reach(hv, page, WRITE)
    audit(hv)
    domain.dma.unmap(page)
    with pytest.raises(DmaFault):
        reach(hv, page)
    assert hv.frames.frame(hfn).maps == 1
    assert len(domain.pool) == pool
    audit(hv)


def test_a_displaced_frame_is_flushed_before_its_reference_is_dropped(hv: Hypervisor, domain: Domain) -> None:
    old, new = frame_of(domain, 5), frame_of(domain, 6)
    domain.dma.map(7, old, RW)
    assert reach(hv, 7, WRITE) == old
    cached_when_dropped = []

    class Watcher(Observer):
        __slots__ = ()

        def host_access(self, hpa: int, size: int, write: bool) -> None:
            if write and hpa == hv.frames.address(old):
                cached_when_dropped.append((domain.dma.domain_id, 7) in hv.machine.iommu.iotlb)

    hv.observer = Watcher()
    domain.dma.map(7, new, RW)
    assert cached_when_dropped == [False]
    assert reach(hv, 7, WRITE) == new
    assert (hv.frames.frame(old).maps, hv.frames.frame(new).maps) == (1, 2)


def test_mapping_what_is_there_again_keeps_the_count(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    hfn = frame_of(domain, 5)
    domain.dma.map(7, hfn, RW)
    assert reach(hv, 7, WRITE) == hfn
    domain.dma.map(7, hfn, READ)
    assert hv.frames.frame(hfn).maps == 2
    with pytest.raises(DmaFault):
        reach(hv, 7, WRITE)
    audit(hv)


def test_absent_entries_need_no_flush(hv: Hypervisor, domain: Domain) -> None:
    cycles = hv.machine.clock.cycles
    domain.dma.flush(0, 64, was_present=False)
    assert hv.machine.clock.cycles == cycles
    domain.dma.flush(0, 2, was_present=True)
    assert hv.machine.clock.cycles > cycles


def test_tables_needed_counts_each_missing_table_once(hv: Hypervisor, domain: Domain) -> None:
    pages = (0, 1, 0x1FF, 0x200, 0x40000)
    assert domain.dma.tables_needed(pages) == 5
    for page in pages:
        domain.dma.map(page, frame_of(domain, 5), RW)
    assert domain.dma.tables_needed(pages) == 0
    assert len(domain.pool) == hv.world.domains[1].pool - 5


def test_a_device_belongs_to_one_domain_or_none(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    bdf = hv.machine.devices[0].bdf
    domain.dma.map(3, frame_of(domain, 5), RW)
    hv.domains[2].dma.map(3, frame_of(hv.domains[2], 5), RW)
    assert reach(hv, 3) == frame_of(domain, 5)
    hv.iommu.detach(bdf)
    assert hv.iommu.domain_of(bdf) == -1
    assert not hv.machine.iommu.context_cache
    assert not hv.machine.iommu.iotlb
    with pytest.raises(DmaFault):
        reach(hv, 3)
    hv.iommu.attach(bdf, hv.domains[2].dma)
    assert hv.iommu.domain_of(bdf) == 2
    assert reach(hv, 3) == frame_of(hv.domains[2], 5)
    assert hv.iommu.domain_of(hv.machine.devices[1].bdf) == -1
    audit(hv)


def test_broken_promises_are_bugs(hv: Hypervisor, domain: Domain) -> None:
    with pytest.raises(HostBug):
        domain.dma.unmap(9)
    with pytest.raises(HostFault):
        domain.dma.lookup(HIGH + 1)
    with pytest.raises(HostFault):
        hv.iommu.domain_of(0x7F00)
    domain.pool.clear()
    with pytest.raises(HostBug):
        domain.dma.map(0, frame_of(domain, 5), RW)


def test_device_tables_are_the_domains_own(hv: Hypervisor, domain: Domain) -> None:
    domain.dma.map(3, frame_of(domain, 5), RW)
    _, _, address = domain.dma.lookup(3)
    frame = hv.frames.frame(address >> PAGE_SHIFT)
    assert (frame.owner, frame.state) == (1, FrameState.TABLE)
