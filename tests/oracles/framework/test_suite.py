"""The suite: which oracles act, what a finding is named after, and that nothing survives a reset."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.generate.generation import generate
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.guest.run.interpreter import HostStopped
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.hypervisor.memory.frames import ONE_MAP, FrameState
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.oracles.framework.all_oracles import NAMES, ORACLES
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.framework.listeners import nothing, together
from hvfuzz.oracles.framework.suite import OracleSuite
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

CATALOGUE = catalogue(ABI)
LOAD = "load(dom1, gva=0xffff880000050000, size=8)"


def program(number: int) -> Program:
    return generate(Random(number), CATALOGUE, ops=20, worlds=(0,))


def test_identity_has_no_numbers_of_the_run() -> None:
    one = Finding("ownership", "free", "memory.decrease", "frame 0x12", 3)
    other = Finding("ownership", "free", "memory.decrease", "frame 0x99", 14)
    assert one.identity == other.identity == "ownership/free/memory.decrease"


def test_unknown_oracle() -> None:
    hv = boot(WORLDS[0])
    with pytest.raises(ValueError, match="no oracle 'onwership'"):
        OracleSuite(hv.machine, hv, WORLDS[0], frozenset({"ownership", "onwership"}))


def test_every_oracle_has_a_name_and_rules() -> None:
    assert len(set(NAMES)) == len(ORACLES)
    for oracle in ORACLES:
        assert oracle.rules
        assert all("/" not in rule and rule.strip() for rule in oracle.rules)


def test_no_oracle_is_no_cost(watched: Callable[..., Any]) -> None:
    bare = watched()
    assert bare.machine.access_observer is None
    assert bare.suite.guest_copy is nothing
    bare.poke(bare.word(5), 0)
    bare.suite.audit()
    assert bare.rules == []


def test_only_the_oracles_that_were_asked_for(watched: Callable[..., Any]) -> None:
    place = 0
    for name in ("recount", "ownership"):
        rig = watched(name)
        place = rig.word(rig.frame(1, 0x50))
        rig.poke(place, 0xFF)
        assert {finding.oracle for finding in rig.suite.findings} == {name}


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


def test_observers_hear_the_hypervisor_too() -> None:
    heard: list[str] = []

    class Listener(Observer):
        def call_finished(self, _vcpu: Any, declaration: Any, *_: Any) -> None:
            heard.append(declaration.name)

        def frame_freed(self, hfn: int) -> None:
            heard.append("freed")

    for enabled in (None, frozenset[str]()):
        hv = boot(WORLDS[0])
        suite = OracleSuite(hv.machine, hv, WORLDS[0], enabled, (Listener(),))
        suite.attach()
        hv.allocator.free_page(hv.allocator.alloc_heap_page())
        suite.call_finished(hv.machine.vcpus[0], ABI.by_name["sched.yield"], None, 0, 0, "")
    assert heard == ["freed", "sched.yield"] * 2


def test_who_knows_frames_hears_of_each_frame_of_a_block() -> None:
    heard: list[int] = []

    class Listener(Observer):
        def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
            heard.append(hfn)

        def frame_freed(self, hfn: int) -> None:
            heard.remove(hfn)

    hv = boot(WORLDS[0])
    suite = OracleSuite(hv.machine, hv, WORLDS[0], None, (Listener(),))
    suite.attach()
    blocks = hv.allocator.choose_blocks(1)
    assert blocks is not None
    hv.allocator.take_block(blocks[0], 1, FrameState.OWNED)
    assert heard == list(range(blocks[0], blocks[0] + 512))
    hv.allocator.free_block(blocks[0])
    assert heard == []


def test_reset_forgets_findings_and_violations(rig: Any) -> None:
    rig.poke(rig.entry(1, 0x50), 0)
    assert rig.rules
    rig.restore()
    assert rig.rules == []
    rig.suite.audit()
    assert rig.rules == []


@pytest.mark.parametrize("number", range(6))
def test_reset_returns_to_the_base(rig: Any, number: int) -> None:
    """Whatever ran before, also on a broken hypervisor: the shadow is that of the booted machine."""
    rig.perform(program(number))
    rig.poke(rig.word(rig.frame(2, 0x60)), 0xFF)
    rig.restore()
    fresh = PageTableShadow(rig.shadow.scene)
    fresh.attach()
    for name in ("entries", "tables", "populations", "leaves", "large", "contexts", "sides", "grants", "handles"):
        assert getattr(rig.shadow, name) == getattr(fresh, name)
    assert rig.shadow.frames.values == fresh.frames.values
    assert rig.shadow.state_counts == fresh.state_counts
    rig.suite.audit()
    assert rig.rules == []


def test_same_program_same_findings(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a hypervisor without flushes, in a used and in a fresh process' state."""
    monkeypatch.setattr(Stage2, "flush", lambda _self: None)
    used = rigs()
    for number in range(12):
        fresh = rigs()
        for rig in (used, fresh):
            rig.restore()
            rig.perform(program(number))
            rig.suite.audit()
        assert used.suite.findings == fresh.suite.findings


def test_together() -> None:
    heard: list[tuple[str, int]] = []
    assert together("frame_freed", []) is nothing
    one = together("frame_freed", [lambda hfn: heard.append(("a", hfn))])
    two = together("frame_freed", [lambda hfn: heard.append(("b", hfn)), one])
    two(7)
    assert heard == [("b", 7), ("a", 7)]


@pytest.mark.parametrize("broken", [False, True])
def test_an_oracle_that_fails(rig: Any, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    """On a clean hypervisor that is our error, and must be seen; on a broken one it must not stop the campaign."""
    if broken:
        rig.poke(rig.word(rig.frame(1, 0x50)), 0xFF)
    found = rig.rules
    oracle: dict[str, Any] = {"__name__": "hvfuzz.oracles.fake"}
    exec("def fail(*_):\n    raise KeyError('ours')", oracle)
    monkeypatch.setattr(rig.suite, "_shadow_changed", oracle["fail"])
    actions: tuple[Callable[[], object], ...] = (
        lambda: rig.run("memory.populate(dom1, first=0x1f0, count=1)"),
        lambda: rig.poke(rig.word(rig.frame(1, 0x51)), 0xFF),
    )
    for action in actions:
        if broken:
            with suppress(HostStopped):
                action()
        else:
            with pytest.raises(KeyError, match="ours"):
                action()
    assert rig.rules == found
