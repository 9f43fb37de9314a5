"""Bits of entries: rights on the way to a leaf, memory types, reserved bits, alignment."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.mmu.ept import LARGE, RIGHTS
from hvfuzz.machine.vtd.legacy_mode import SL_SNOOP, SL_TRANSIENT
from hvfuzz.oracles.shadow.changes import ADDRESS, DMA

MAP = "device.dma_map(dom1, iova=0x5000, gfn=0x40, count=1, rights=R|W)"
SPLIT = (
    "memory.populate(dom1, first=0x200, count=1, order=9)",
    "memory.protect(dom1, first=0x200, count=1, rights=R)",
    "memory.protect(dom1, first=0x200, count=1, rights=R|W|X)",
    "memory.decrease(dom1, first=0x3ff, count=1)",
)


@pytest.fixture
def own(watched: Callable[..., Any]) -> Any:
    return watched("ownership")


def link(rig: Any, space: int, level: int) -> int:
    """Host physical address of the entry, in a table of `level`, that names the table for the first pages."""
    for word, entry in rig.shadow.entries.items():
        table = rig.shadow.tables[word >> 9]
        if (table.space, table.level) == (space, level) and (entry & ADDRESS) >> PAGE_SHIFT in rig.shadow.tables:
            return int(word) << 3
    raise AssertionError("no such entry")


@pytest.mark.parametrize("bits", [1, 3, 5, 7 | 1 << 3, 7 | 1 << 6])
@pytest.mark.parametrize("level", [4, 3, 2])
def test_table_entry_of_stage_2(own: Any, level: int, bits: int) -> None:
    at = link(own, 1, level)
    assert own.poke(at, own.memory.load64(at) & ADDRESS | bits) == ["ownership/entry"]


@pytest.mark.parametrize("bits", [1, 2, 3 | SL_SNOOP, 3 | SL_TRANSIENT])
@pytest.mark.parametrize("level", [3, 2])
def test_table_entry_of_the_iommu(own: Any, level: int, bits: int) -> None:
    own.run(MAP)
    at = link(own, 1 | DMA, level)
    assert own.poke(at, own.memory.load64(at) & ADDRESS | bits) == ["ownership/entry"]


@pytest.mark.parametrize("bits", [7, 2 << 3 | 7, 7 << 3 | 7, 6 << 3 | 2, 6 << 3 | 6])
def test_leaf_of_stage_2(own: Any, bits: int) -> None:
    at = own.entry(1, 0x50)
    assert own.poke(at, own.memory.load64(at) & ADDRESS | bits) == ["ownership/entry"]


@pytest.mark.parametrize("bit", [SL_SNOOP, SL_TRANSIENT])
def test_leaf_of_the_iommu(own: Any, bit: int) -> None:
    own.run(MAP)
    at = own.entry(1, 5, dma=True)
    assert own.poke(at, own.memory.load64(at) | bit) == ["ownership/entry"]


def test_large_leaf_that_is_not_aligned(own: Any) -> None:
    own.run(*SPLIT[:1])
    at = own.entry(1, 0x200)
    assert own.memory.load64(at) & LARGE
    assert "ownership/entry" in own.poke(at, own.memory.load64(at) + 0x1000)


@pytest.mark.parametrize(("rights", "kind", "rules"), [(7, 6, []), (5, 6, ["entry"]), (7, 2, ["entry"])])
def test_split(own: Any, monkeypatch: pytest.MonkeyPatch, rights: int, kind: int, rules: list[str]) -> None:
    """A table that appears with all its leaves at once."""

    def split(self: Stage2, gfn: int) -> bool:
        entry, _, address = self.lookup(gfn)
        table = self.pool.take()
        first = entry & ~(LARGE | 0x38)
        leaves = [first + (page << PAGE_SHIFT) | (kind if page == 77 else 6) << 3 for page in range(512)]
        self.host.write(table << PAGE_SHIFT, struct.pack("<512Q", *leaves))
        self.host.write64(address, table << PAGE_SHIFT | rights)
        self.flush()
        return True

    monkeypatch.setattr(Stage2, "split", split)
    own.run(*SPLIT[:2])
    assert own.rules == [f"ownership/{rule}" for rule in rules]


def test_what_is_wrong_is_seen_by_looking_too(own: Any) -> None:
    own.run(MAP)
    for at, bits in ((own.entry(1, 0x50), RIGHTS), (link(own, 1, 2), 1)):
        own.shadow.entries[at >> 3] = own.memory.load64(at) & ADDRESS | bits
        own.suite.log.clear()
        own.suite.audit()
        assert "ownership/entry" in own.rules


def test_legal_changes_are_silent(own: Any) -> None:
    trace = own.run(
        MAP,
        *SPLIT,
        "device.dma_unmap(dom1, iova=0x5000, count=1)",
        "device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=W)",
        "device.deassign(dom0, device=0)",
        "device.assign(dom0, device=0, to=2)",
    )
    assert [outcome.status for outcome in trace.outcomes] == [0] * len(trace.outcomes)
    own.suite.audit()
    assert own.rules == []
