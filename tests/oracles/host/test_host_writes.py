"""The order within a step: the entry is written, then flushed, then its pin is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.hypercalls.grant import mappings
from hvfuzz.hypervisor.memory.dma import DmaMap
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.hypervisor.memory.table_tree import leaf_frame
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.vtd.iommu import Iommu

GRANT = (
    "r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R|W)",
    "r1 = grant.map(dom1, granter=dom2, ref=r0, gfn=0x400, iova=0x1000, flags=HOST|DEVICE)",
)


@pytest.fixture
def close(watched: Callable[..., Any]) -> Any:
    rig = watched("stale")
    rig.suite.watch_closely(True)
    return rig


def unmap(self: Stage2, gfn: int) -> bool:
    """Flushed before the entry is cleared."""
    entry, level, address = self.lookup(gfn)
    self.flush()
    self.host.write64(address, 0)
    self.frames.drop_map(leaf_frame(entry, level, gfn))
    return True


def unmap_dma(self: DmaMap, page: int) -> None:
    """Likewise."""
    entry, _, address = self.lookup(page)
    self.flush(page, 1, True)
    self.host.write64(address, 0)
    self.frames.drop_map(leaf_frame(entry, 1, page))


def protect(self: Stage2, first: int, count: int, rights: int) -> bool:
    """Flushed before the rights go."""
    entry, _, address = self.lookup(first)
    self.flush()
    self.host.write64(address, entry & ~7 | rights)
    return True


@pytest.mark.parametrize(
    ("holder", "name", "wrong", "lines"),
    [
        (Stage2, "unmap", unmap, ("memory.decrease(dom1, first=0x50, count=1)",)),
        (Stage2, "protect", protect, ("memory.protect(dom1, first=0x50, count=1, rights=R)",)),
        (
            DmaMap,
            "unmap",
            unmap_dma,
            (
                "device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)",
                "device.dma_unmap(dom1, iova=0x5000, count=1)",
            ),
        ),
    ],
)
@pytest.mark.parametrize("faulty", [False, True])
def test_flush_before_the_entry_is_written(
    close: Any, monkeypatch: pytest.MonkeyPatch, faulty: bool, holder: Any, name: str, wrong: Any, lines: Any
) -> None:
    if faulty:
        monkeypatch.setattr(holder, name, wrong)
    trace = close.run(*lines)
    assert [outcome.status for outcome in trace.outcomes] == [0] * len(lines)
    assert close.rules == (["stale/order"] if faulty else [])


@pytest.mark.parametrize("flags", ["HOST", "DEVICE", "HOST|DEVICE"])
@pytest.mark.parametrize("faulty", [False, True])
def test_pin_that_is_dropped_too_soon(close: Any, monkeypatch: pytest.MonkeyPatch, faulty: bool, flags: str) -> None:
    def release(self: mappings.ReleaseSide, hv: Any) -> None:
        domain = hv.domains[self.domain]
        mapping = domain.handles[self.handle]
        mappings.drop_reference(hv, domain, self.handle, mapping, self.side)
        mappings.unmap_side(domain, mapping, self.side)

    if faulty:
        monkeypatch.setattr(mappings.ReleaseSide, "apply", release)
    trace = close.run(*GRANT, f"grant.unmap(dom1, handle=r1, count=1, flags={flags})")
    assert trace.outcomes[-1].status == 0
    assert close.rules == (["stale/leaf"] if faulty else [])


def test_legal_orders_are_silent(close: Any) -> None:
    trace = close.run(
        "memory.populate(dom1, first=0x200, count=1, order=9)",
        "memory.protect(dom1, first=0x200, count=7, rights=R)",
        "memory.protect(dom1, first=0x200, count=7, rights=R|W|X)",
        "memory.exchange(dom1, gfns=[0x210, 0x50], out=[0, 0], count=2)",
        "memory.decrease(dom1, first=0x200, count=512)",
        "device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)",
        "device.dma_map(dom1, iova=0x5000, gfn=0x42, count=2, rights=R)",
        "device.dma_unmap(dom1, iova=0x5000, count=2)",
        *GRANT,
        "grant.unmap(dom1, handle=r1, count=1, flags=HOST|DEVICE)",
        "device.deassign(dom0, device=0)",
    )
    assert [outcome.status for outcome in trace.outcomes] == [0] * len(trace.outcomes)
    assert close.rules == []


def test_looking_closely_ends(close: Any) -> None:
    close.suite.watch_closely(False)
    assert (type(close.machine.tlb), type(close.machine.iommu)) == (Tlb, Iommu)
