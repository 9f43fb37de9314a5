"""The oracle `recount`: every count that is wrong by one is reported, and no correct one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.hypercalls.memory.reservation import PopulateBlock
from hvfuzz.hypervisor.memory.frames import ONE_GRANT, ONE_MAP, ONE_PIN, FrameState
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.hypervisor.memory.table_tree import TableTree
from hvfuzz.machine.addresses import PAGE_SHIFT

GRANT = "r0 = grant.create(dom1, gfn=0x30, to=2, rights=R|W)"
MAP = "r1 = grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, iova=0x5000, flags=HOST|DEVICE)"


@pytest.fixture
def counts(watched: Callable[..., Any]) -> Any:
    return watched("recount")


@pytest.mark.parametrize(("one", "rule"), [(ONE_MAP, "maps"), (ONE_PIN, "pins"), (ONE_GRANT, "grants")])
@pytest.mark.parametrize("sign", [1, -1])
def test_counts_of_a_frame(counts: Any, one: int, rule: str, sign: int) -> None:
    counts.run(GRANT, MAP)
    assert not counts.rules
    place = counts.word(counts.frame(1, 0x30))
    assert counts.poke(place, counts.memory.load64(place) + sign * one) == [f"recount/{rule}"]


@pytest.mark.parametrize(("gfn", "state"), [(0x30, 3), (0x50, 4)])
def test_state_of_a_frame(counts: Any, gfn: int, state: int) -> None:
    counts.run(GRANT)
    place = counts.word(counts.frame(1, gfn))
    assert counts.poke(place, counts.memory.load64(place) & ~0xFF00 | state << 8) == ["recount/state"]


def test_leaf_that_nobody_counts(counts: Any) -> None:
    old = counts.memory.load64(counts.entry(1, 0x50))
    assert counts.poke(counts.free_entry(1, 0x1F0), old) == ["recount/maps"]


def test_leaf_that_is_gone_and_counted(counts: Any) -> None:
    assert counts.poke(counts.entry(1, 0x50), 0) == ["recount/maps"]


def test_one_frame_of_a_large_leaf(counts: Any) -> None:
    counts.run("memory.populate(dom1, first=0x200, count=1, order=9)")
    place = counts.word((counts.memory.load64(counts.entry(1, 0x200)) >> PAGE_SHIFT) + 300)
    assert counts.poke(place, counts.memory.load64(place) + ONE_MAP) == ["recount/maps"]


@pytest.mark.parametrize("pins", ["host_pins", "device_pins"])
def test_pins_of_a_grant_entry(counts: Any, pins: str) -> None:
    counts.run(GRANT, MAP)
    grants = counts.hv.domains[1].grants

    def change() -> None:
        counts.suite.step(None)
        grants[0] = grants[0]._replace(**{pins: 2})

    assert counts.during(change) == ["recount/entry"]


def test_handle_that_is_forgotten(counts: Any) -> None:
    counts.run(GRANT, MAP)

    def change() -> None:
        counts.suite.step(None)
        counts.hv.domains[2].handles[0] = None

    assert sorted(counts.during(change)) == ["recount/entry", "recount/pins"]


def test_handle_of_nothing(counts: Any) -> None:
    counts.run(GRANT, MAP)
    handles = counts.hv.domains[2].handles

    def change() -> None:
        counts.suite.step(None)
        handles[0] = handles[0]._replace(ref=9)

    assert sorted(counts.during(change)) == ["recount/entry", "recount/handle"]


def test_side_of_a_live_handle_that_is_unmapped(counts: Any) -> None:
    """The leaf and the count of maps go, and the handle still claims the place."""
    counts.run(GRANT, MAP)
    word = counts.word(counts.frame(1, 0x30))

    def change() -> None:
        counts.memory.store64(counts.entry(2, 0x1F0), 0)
        counts.memory.store64(word, counts.memory.load64(word) - ONE_MAP)

    assert sorted(counts.during(change)) == ["recount/handle", "recount/pins"]


def test_mapping_that_outlives_its_references(counts: Any) -> None:
    """XSA-224: handle, entry and frame agree that a side is gone, and the leaf is there."""
    counts.run(GRANT, MAP)
    word = counts.word(counts.frame(1, 0x30))
    grants, handles = counts.hv.domains[1].grants, counts.hv.domains[2].handles

    def change() -> None:
        counts.suite.step(None)
        handles[0] = handles[0]._replace(device=False, iova=0)
        grants[0] = grants[0]._replace(device_pins=0)
        counts.memory.store64(word, counts.memory.load64(word) - ONE_PIN)

    assert counts.during(change) == ["recount/pins"]


def test_pool_that_loses_a_page(counts: Any) -> None:
    def change() -> None:
        counts.hv.domains[1].pool.pop()
        counts.memory.store64(counts.entry(1, 0x50), 0)

    assert "recount/pool" in counts.during(change)


def test_page_that_is_twice_in_a_pool(counts: Any) -> None:
    pool = counts.hv.domains[1].pool

    def change() -> None:
        pool[0] = pool[1]
        counts.memory.store64(counts.entry(1, 0x50), 0)

    assert "recount/pool" in counts.during(change)


def test_page_of_a_pool_that_is_in_use(counts: Any) -> None:
    assert counts.poke(counts.word(counts.hv.domains[1].pool[3]), 0x201) == []  # is seen when the pool changes
    counts.suite.audit()
    assert counts.rules == ["recount/pool"]


def test_frame_that_the_allocator_lost(counts: Any) -> None:
    place = counts.word(counts.frame(1, 0x50))
    assert sorted(counts.poke(place, 0xFF)) == ["recount/free", "recount/maps"]


def test_count_of_free_frames(counts: Any) -> None:
    counts.hv.allocator.available += 1
    counts.run("memory.populate(dom1, first=0x1f0, count=1)")
    assert counts.rules == ["recount/free"]


def test_legal_calls_are_silent(counts: Any) -> None:
    trace = counts.run(
        GRANT,
        MAP,
        "memory.populate(dom1, first=0x200, count=2, order=9)",
        "memory.decrease(dom1, first=0x300, count=0x200)",
        "memory.protect(dom1, first=0x210, count=4, rights=R)",
        "memory.protect(dom1, first=0x210, count=4, rights=R|W|X)",
        "device.dma_map(dom1, iova=0x1ff000, gfn=0x40, count=8, rights=R)",
        "device.dma_map(dom1, iova=0x1fe000, gfn=0x44, count=8, rights=R)",
        "device.dma_unmap(dom1, iova=0x1fe000, count=9)",
        "grant.unmap(dom2, handle=r1, count=1, flags=HOST|DEVICE)",
        "r10 = event.alloc(dom1, remote=2)",
        "event.close(dom1, port=r10)",
    )
    assert [outcome.status for outcome in trace.outcomes] == [0] * 12
    counts.suite.audit()
    assert counts.rules == []


def test_table_that_stays_though_it_is_empty(counts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TableTree, "trim", lambda *_: None)
    counts.run("device.dma_map(dom1, iova=0, gfn=0x30, count=1, rights=R)", "device.dma_unmap(dom1, iova=0, count=1)")
    assert counts.rules == ["recount/empty"]


def test_grant_that_is_gone_though_it_is_mapped(counts: Any) -> None:
    counts.run(GRANT, MAP)
    place = counts.word(counts.frame(1, 0x30))

    def forget() -> None:
        counts.suite.step(None)
        counts.hv.domains[1].grants[0] = None
        counts.memory.store64(place, counts.memory.load64(place) - ONE_GRANT)

    assert sorted(counts.during(forget)) == ["recount/entry", "recount/handle"]


BLOCK = "memory.populate(dom1, first=0x200, count=1, order=9)"


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("rights", ["R|W|X", "R|W"])
def test_split_leaf_that_stays_split(
    watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, merges: bool, rights: str
) -> None:
    if not merges:
        monkeypatch.setattr(Stage2, "mergeable", lambda *_: 0)
    rig = watched("recount")
    rig.run(BLOCK, "memory.protect(dom1, first=0x200, count=1, rights=R)")
    assert rig.rules == []
    rig.run(f"memory.protect(dom1, first=0x200, count=512, rights={rights})")
    assert rig.rules == ([] if merges else ["recount/size"])


@pytest.mark.parametrize("small", [True, False])
def test_block_that_is_mapped_by_small_leaves(
    watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    def apply(self: PopulateBlock, hv: Any) -> None:
        hv.allocator.take_block(self.hfn, self.domain, FrameState.OWNED)
        for at in range(512):
            hv.domains[self.domain].stage2.map(self.gfn + at, self.hfn + at, 7)

    if small:
        monkeypatch.setattr(PopulateBlock, "apply", apply)
    rig = watched("recount")
    rig.run(BLOCK)
    assert rig.rules == (["recount/size"] if small else [])
