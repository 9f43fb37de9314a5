"""The suite: nothing survives a reset, and what happens when an oracle raises an exception."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.oracles.accounting.cycles import Cycles
from hvfuzz.oracles.contents.memory_model import MemoryModel
from hvfuzz.oracles.framework.listeners import nothing
from hvfuzz.oracles.host.access_log import AccessLog
from hvfuzz.oracles.host.host_writes import HostWrites
from hvfuzz.oracles.isolation.ownership import Ownership
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


def broken_from_now_on(
    monkeypatch: pytest.MonkeyPatch, oracle: type, event: str, error: type[Exception] = KeyError
) -> None:
    """Let `oracle` raise an exception at `event`."""
    namespace: dict[str, Any] = {"__name__": "hvfuzz.oracles.fake"}
    exec(f"def fail(*_):\n    raise {error.__name__}('ours')", namespace)
    monkeypatch.setattr(oracle, event, namespace["fail"])


ACTIONS: tuple[Callable[[Any], object], ...] = (
    lambda rig: rig.run("memory.populate(dom1, first=0x1f0, count=1)"),
    lambda rig: rig.poke(rig.word(rig.frame(1, 0x51)), 0xFF),
)
"""Both change the shadow: within a call, and at the end of an op."""


@pytest.mark.parametrize("action", ACTIONS)
def test_an_oracle_that_fails_on_a_clean_hypervisor(
    rigs: Any, monkeypatch: pytest.MonkeyPatch, action: Callable[[Any], object]
) -> None:
    broken_from_now_on(monkeypatch, Ownership, "shadow_changed")
    rig = rigs()
    with pytest.raises(KeyError, match="ours"):
        action(rig)


def test_an_oracle_that_fails_on_a_broken_hypervisor(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so once; the host and the other oracles go on, in this run and in the audit."""
    broken_from_now_on(monkeypatch, Ownership, "foreign_copy")
    broken_from_now_on(monkeypatch, Ownership, "shadow_changed")
    rig = rigs()
    rig.during(lambda: rig.suite.log.report("ownership", "free", "something was found before"))
    trace = rig.run("memory.populate(dom1, first=0x1f0, count=1)", "memory.populate(dom1, first=0x1f1, count=1)")
    assert not trace.stopped
    assert [outcome.status for outcome in trace.outcomes] == [0, 0]
    assert rig.rules == ["ownership/free", "specification/state"]
    assert "the oracle ownership can make no sense of the state: KeyError" in rig.suite.findings[1].message
    rig.poke(rig.word(rig.frame(1, 0x51)), 0xFF)
    assert "recount/maps" in rig.rules
    assert [rule for rule in rig.rules if rule.startswith("ownership")] == ["ownership/free"]


def test_a_shadow_that_fails_ends_the_judgement(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.during(lambda: rig.suite.log.report("ownership", "free", "something was found before"))

    def fail() -> None:
        raise KeyError("ours")

    monkeypatch.setattr(type(rig.shadow), "update", lambda shadow: fail())
    for action in ACTIONS:
        action(rig)
    rig.suite.audit()
    assert rig.rules == ["ownership/free", "specification/state"]
    assert "scene" in rig.suite.findings[1].message


@pytest.mark.parametrize(
    ("watcher", "hook", "oracle"),
    [
        (MemoryModel, "_written", "contents"),
        (AccessLog, "_check", "host_memory"),
        (HostWrites, "_settle", "host_writes"),
        (Cycles, "_charged", "work"),
    ],
)
@pytest.mark.parametrize("planted", [True, False])
def test_a_hook_of_hardware_that_fails_is_not_the_hosts(
    rigs: Any, monkeypatch: pytest.MonkeyPatch, watcher: type, hook: str, oracle: str, planted: bool
) -> None:
    """The hypervisor's code catches what its own accesses raise: the exception of a hook must not end there."""
    broken_from_now_on(monkeypatch, watcher, hook, ValueError)
    rig = rigs()
    rig.suite.watch_closely(True)
    if not planted:
        with pytest.raises(ValueError, match="ours"):
            rig.run("memory.populate(dom1, first=0x1f0, count=1)", "memory.decrease(dom1, first=0x1f0, count=1)")
        return
    rig.during(lambda: rig.suite.log.report("ownership", "free", "something was found before"))
    trace = rig.run("memory.populate(dom1, first=0x1f0, count=1)", "memory.decrease(dom1, first=0x1f0, count=1)")
    assert not trace.stopped
    assert [outcome.status for outcome in trace.outcomes] == [0, 0]
    assert rig.rules == ["ownership/free", "specification/state"]
    assert f"the oracle {oracle} can make no sense of the state: ValueError" in rig.suite.findings[1].message
