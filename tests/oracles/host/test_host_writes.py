"""The order within a step, and the flushes owed at its end: what is wrong is told once, and what is legal is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.hypercalls.grant import mappings
from hvfuzz.hypervisor.memory.dma import DmaMap
from hvfuzz.hypervisor.memory.stage2 import Stage2, _Protection
from hvfuzz.hypervisor.memory.table_tree import LARGE, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT
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


def split_unflushed(self: Stage2, gfn: int) -> bool:
    """A large leaf becomes a table of small ones; what follows in the step flushes both."""
    entry, _, address = self.lookup(gfn)
    table = self.pool.take()
    for index in range(512):
        self.host.write64((table << PAGE_SHIFT) + 8 * index, (entry & ~LARGE) + (index << PAGE_SHIFT))
    self.host.write64(address, table << PAGE_SHIFT | self.table_rights)
    return True


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("memory.decrease(dom1, first=0x205, count=1)", []),
        ("memory.protect(dom1, first=0x205, count=1, rights=R)", []),
    ],
)
def test_one_flush_may_serve_two_writes(
    close: Any, monkeypatch: pytest.MonkeyPatch, line: str, rules: list[str]
) -> None:
    monkeypatch.setattr(Stage2, "split", split_unflushed)
    trace = close.run("memory.populate(dom1, first=0x200, count=1, order=9)", line)
    assert [outcome.status for outcome in trace.outcomes] == [0, 0]
    assert close.rules == rules


@pytest.mark.parametrize(("count", "late"), [(64, False), (128, True)])
def test_a_flush_may_not_come_after_a_preemption_point(
    close: Any, monkeypatch: pytest.MonkeyPatch, count: int, late: bool
) -> None:
    last = 0x40 + count

    def protect(self: Stage2, first: int, pages: int, rights: int) -> bool:
        self.walk(first, pages, _Protection(self, first, first + pages, rights))
        if first + pages == last:
            self.flush()
        return True

    monkeypatch.setattr(Stage2, "protect", protect)
    trace = close.run(f"memory.protect(dom1, first=0x40, count={count}, rights=R)")
    assert trace.outcomes[0].status == 0
    assert close.rules == (["stale/unflushed"] if late else [])


@pytest.mark.parametrize("warm", [False, True])
def test_a_missing_flush_is_told_once(close: Any, monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    monkeypatch.setattr(Stage2, "flush", lambda self: None)
    used = ("load(dom1, gva=DIRECT+0x40000, size=8)",) if warm else ()
    close.run(*used, "memory.protect(dom1, first=0x40, count=1, rights=X|R)")
    assert close.rules == ["stale/tlb" if warm else "stale/unflushed"]
    assert close.suite.findings[0].operation == "memory.protect"


def widened(self: _Protection, page: int, level: int, entry: int, address: int) -> None:
    """All rights, and then those that were asked for."""
    self.stage2.host.write64(address, entry | 7)
    self.stage2.host.write64(address, entry & ~7 | self.rights)


@pytest.mark.parametrize("dies", [False, True])
def test_what_has_passed_is_told_even_if_the_host_dies(rig: Any, monkeypatch: pytest.MonkeyPatch, dies: bool) -> None:
    rig.suite.watch_closely(True)

    def flush(self: Stage2) -> None:
        self.host.machine.tlb.invept(self.root)
        if dies:
            raise HostBug("in the middle of a step")

    rig.run("memory.protect(dom1, first=0x40, count=1, rights=R)")
    monkeypatch.setattr(_Protection, "leaf", widened)
    monkeypatch.setattr(Stage2, "flush", flush)
    rig.run("memory.protect(dom1, first=0x40, count=1, rights=R|X)")
    assert "ownership/moment" in rig.rules
    assert ("host_memory/exception:HostBug" in rig.rules) == dies


def test_only_the_oracles_that_were_asked_for(watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Protection, "leaf", widened)
    monkeypatch.setattr(Stage2, "flush", lambda self: None)
    for oracle, rules in (("ownership", ["ownership/moment"]), ("stale", ["stale/unflushed"]), ("secrets", [])):
        rig = watched(oracle)
        rig.suite.watch_closely(True)
        rig.run(
            "memory.protect(dom1, first=0x40, count=1, rights=R|W)",
            "memory.protect(dom1, first=0x40, count=1, rights=R|X)",
        )
        assert list(dict.fromkeys(rig.rules)) == rules


def test_looking_closely_ends(close: Any) -> None:
    close.suite.watch_closely(False)
    assert (type(close.machine.tlb), type(close.machine.iommu)) == (Tlb, Iommu)
    assert all(type(device).__module__.startswith("hvfuzz.machine.") for device in close.machine.devices)
