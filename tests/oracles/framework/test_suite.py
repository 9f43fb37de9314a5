"""The suite: nothing survives a reset, and what happens when an oracle raises an exception."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.guest.run.interpreter import HostStopped
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.oracles.framework.listeners import nothing
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

CATALOGUE = catalogue(ABI)
LOAD = "load(dom1, gva=0xffff880000050000, size=8)"


def program(number: int) -> Program:
    return generate(Random(number), CATALOGUE, ops=20, worlds=(0,))


def test_no_oracle_is_no_cost(watched: Callable[..., Any]) -> None:
    bare = watched()
    assert bare.machine.access_observer is None
    assert bare.suite.guest_copy is nothing
    bare.poke(bare.word(5), 0)
    bare.suite.audit()
    assert bare.rules == []


def test_reset_forgets_findings_and_violations(rig: Any) -> None:
    rig.poke(rig.entry(1, 0x50), 0)
    assert rig.rules
    rig.restore()
    assert rig.rules == []
    rig.suite.audit()
    assert rig.rules == []


@pytest.mark.parametrize("number", range(6))
def test_reset_returns_to_the_base(rig: Any, number: int) -> None:
    """After any run, also of a broken hypervisor, the shadow is that of the booted machine."""
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
    """On a hypervisor without flushes, with used and with fresh oracles."""
    monkeypatch.setattr(Stage2, "flush", lambda _self: None)
    used = rigs()
    for number in range(12):
        fresh = rigs()
        for rig in (used, fresh):
            rig.restore()
            rig.perform(program(number))
            rig.suite.audit()
        assert used.suite.findings == fresh.suite.findings


@pytest.mark.parametrize("broken", [False, True])
def test_an_oracle_that_fails(rig: Any, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    """On a clean hypervisor it is an internal error and is raised; on a broken one it must not stop the campaign."""
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
