"""The oracle `host_memory`: accesses that the hypervisor must not make, and exceptions that end it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import HYPERVISOR_HOLE_START
from hvfuzz.hypervisor.core.host import HostArray, HostBug, HostFault, Work
from hvfuzz.hypervisor.hypercalls import discovery
from hvfuzz.hypervisor.memory.allocator import Allocator
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_pool import TablePool
from hvfuzz.machine.addresses import PAGE_SHIFT


@pytest.fixture
def host(watched: Callable[..., Any]) -> Any:
    return watched("host_memory")


@pytest.mark.parametrize(
    ("state", "rule"), [(FrameState.FREE, "free"), (FrameState.POOL, "freed"), (FrameState.OWNED, "guest")]
)
@pytest.mark.parametrize("size", [8, 64, 0x1100])
def test_reads(host: Any, state: FrameState, rule: str, size: int) -> None:
    hpa = host.in_state(state) - 1 << PAGE_SHIFT
    assert host.during(lambda: host.hv.host.read(hpa, size)) == [f"host_memory/{rule}"]


@pytest.mark.parametrize(
    ("state", "rule"), [(FrameState.FREE, "free"), (FrameState.POOL, "freed"), (FrameState.OWNED, "guest")]
)
@pytest.mark.parametrize("size", [8, 64, 4096])
def test_writes(host: Any, state: FrameState, rule: str, size: int) -> None:
    hpa = host.in_state(state) << PAGE_SHIFT
    assert host.during(lambda: host.hv.host.write(hpa, bytes(size))) == [f"host_memory/{rule}"]


@pytest.mark.parametrize("state", [FrameState.HYPERVISOR, FrameState.TABLE])
def test_what_it_owns(host: Any, state: FrameState) -> None:
    hpa = host.in_state(state) << PAGE_SHIFT
    assert host.during(lambda: host.hv.host.write(hpa, host.hv.host.read(hpa, 4096))) == []


def test_scrubbing_before_the_free_is_silent_and_without_is_not(host: Any) -> None:
    hfn = host.frame(1, 0x50)
    allocator = host.hv.allocator
    assert host.during(lambda: allocator.free_page(hfn)) == []
    assert host.during(lambda: allocator.scrub(host.frame(1, 0x51), 1)) == ["host_memory/guest"]


def test_header_of_a_heap_page_is_silent_and_of_a_page_that_stays_free_is_not(host: Any) -> None:
    allocator = host.hv.allocator
    assert host.during(allocator.alloc_heap_page) == []
    free = host.in_state(FrameState.FREE)
    assert host.during(lambda: host.hv.host.write64(free << PAGE_SHIFT, 1)) == ["host_memory/free"]


@pytest.mark.parametrize("write", [False, True])
def test_copy_that_resolves_to_the_hole(host: Any, write: bool) -> None:
    vcpu = host.machine.vcpus[1]
    gva = HYPERVISOR_HOLE_START + 0x1000
    assert host.during(lambda: host.suite.guest_copy(vcpu, gva, 0x1000, 8, write)) == ["host_memory/hole"]


def test_use_of_a_table_page_after_it_went_back_to_the_pool(host: Any) -> None:
    host.run("device.dma_map(dom1, iova=0x40000000, gfn=0x30, count=1, rights=R)")
    stage2 = host.hv.domains[1].dma
    _, _, address = stage2.lookup(0x40000)
    host.run("device.dma_unmap(dom1, iova=0x40000000, count=1)")
    assert host.rules == []
    assert host.during(lambda: host.hv.host.read64(address)) == ["host_memory/freed"]


def raises(fault: BaseException) -> Callable[..., Any]:
    def check(*_: Any) -> None:
        raise fault

    return check


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (HostFault("array of 4 elements read at 7"), "bounds"),
        (HostFault("null bucket dereferenced"), "null"),
        (HostFault("word read at 0x123"), "fault"),
        (HostBug("a checked step fails"), "exception:HostBug"),
        (ZeroDivisionError("division by zero"), "exception:ZeroDivisionError"),
    ],
)
def test_exceptions(host: Any, monkeypatch: pytest.MonkeyPatch, fault: BaseException, rule: str) -> None:
    monkeypatch.setattr(discovery.Version, "check", raises(fault))
    host.run("discovery.version(dom1, want=1)")
    assert [finding.identity for finding in host.suite.findings] == [f"host_memory/{rule}/discovery.version"]


def test_a_checked_array_names_its_rule(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    array = HostArray([None], Work())
    monkeypatch.setattr(discovery.Version, "check", lambda *_: array[-1])
    host.run("discovery.version(dom1, want=1)")
    assert host.rules == ["host_memory/bounds"]


def test_nothing_is_said_about_the_state_of_a_dead_host(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died in the middle of a change, so an inconsistent state is not another finding."""

    def half(self: Allocator, hfn: int, *_: Any) -> None:
        self.frames.assign(hfn, 1, FrameState.OWNED)
        raise HostFault("word written at 0x1")

    monkeypatch.setattr(Allocator, "take", half)
    rig.run("memory.populate(dom1, first=0x1f0, count=1)")
    assert rig.rules == ["host_memory/fault"]


@pytest.mark.parametrize("frames", [1, 512])
@pytest.mark.parametrize("left", [-1, 0, 77, -8])
def test_what_is_left_in_a_freed_frame(host: Any, monkeypatch: pytest.MonkeyPatch, frames: int, left: int) -> None:
    """XSA-100, for any frame and any word of it."""
    host.run("memory.populate(dom1, first=0x200, count=1, order=9)")
    original = Allocator.scrub

    def scrub(self: Allocator, hfn: int, count: int) -> None:
        original(self, hfn, count)
        if left != -1:
            self.host.memory.store(((hfn + count - 1) << PAGE_SHIFT) + left % 4096, 1, 1)

    monkeypatch.setattr(Allocator, "scrub", scrub)
    trace = host.run(f"memory.decrease(dom1, first=0x200, count={frames})")
    assert [outcome.status for outcome in trace.outcomes] == [0]
    assert host.rules == ([] if left == -1 else ["host_memory/scrub"])


@pytest.mark.parametrize("poisoned", [True, False])
def test_table_page_that_goes_back_to_its_pool(host: Any, monkeypatch: pytest.MonkeyPatch, poisoned: bool) -> None:
    def put(self: TablePool, hfn: int) -> None:
        self.frames.assign(hfn, self.owner, FrameState.POOL)
        self.pages.append(hfn)
        self.host.observer.frame_freed(hfn)

    if not poisoned:
        monkeypatch.setattr(TablePool, "put", put)
    trace = host.run(
        "device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R)",
        "device.dma_unmap(dom1, iova=0x40000000, count=1)",
    )
    assert [outcome.status for outcome in trace.outcomes] == [0, 0]
    assert host.rules == ([] if poisoned else ["host_memory/poison"])
