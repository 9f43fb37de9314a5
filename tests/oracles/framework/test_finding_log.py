"""Findings: one for each identity, and what the operation of a finding is."""

from __future__ import annotations

from typing import Any

import pytest

from hvfuzz.hypervisor.memory.frames import ONE_MAP
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.oracles.framework.finding import Finding

LOAD = "load(dom1, gva=0xffff880000050000, size=8)"


def test_identity_has_no_numbers_of_the_run() -> None:
    one = Finding("ownership", "free", "memory.decrease", "frame 0x12", 3)
    other = Finding("ownership", "free", "memory.decrease", "frame 0x99", 14)
    assert one.identity == other.identity == "ownership/free/memory.decrease"


def test_one_finding_of_each_identity(rig: Any) -> None:
    for gfn in (0x50, 0x51, 0x52):
        place = rig.word(rig.frame(1, gfn))
        rig.poke(place, rig.memory.load64(place) + ONE_MAP)
    assert rig.rules == ["recount/maps", "specification/change"]
    assert [finding.op for finding in rig.suite.findings] == [0, 0]


def test_a_call_within_a_batch_gives_its_name(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage2, "flush", lambda _self: None)
    rig.run(LOAD, "multicall(dom1, count=1)", "memory.decrease(dom1, first=0x50, count=1)")
    assert [finding.identity for finding in rig.suite.findings] == ["stale/tlb/memory.decrease"]


def test_the_audit_tells_what_another_finding_of_the_rule_does_not(rig: Any) -> None:
    """An oracle has seen one frame when it happened; it has missed the other one."""
    log = rig.suite.log
    log.report("recount", "maps", "frame 0x1 (OWNED, dom1, maps 1) is mapped twice")
    log.auditing = True
    log.report("recount", "maps", "frame 0x1 (FREE, no owner, maps 0) is mapped twice")
    assert rig.rules == ["recount/maps"]
    log.report("recount", "maps", "frame 0x2 (OWNED, dom1, maps 1) is mapped twice")
    assert rig.rules == ["recount/maps", "audit/recount.maps"]
