"""The oracle `principal`: whose exit it is, in races and outside of exits, and what other vCPUs get."""

from __future__ import annotations

from typing import Any

import pytest

from hvfuzz.hypervisor.core import dispatch, exits
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls.sched import Block, BlockVcpu, WakeVcpu
from hvfuzz.machine.addresses import READ
from hvfuzz.machine.cpu.registers import RAX

RACE = ("race 0: cpuid(dom1.1, leaf=0)", "console.write(dom1, text=DIRECT+0x40000, length=8)")


def test_an_exit_that_finds_the_host_busy_has_a_principal_of_its_own(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    handle = exits.handle_exit

    def handle_exit(hv: Any, vcpu: Any) -> None:
        before = rig.suite._calls.principal
        handle(hv, vcpu)
        seen.append((before is vcpu, rig.suite._calls.principal is vcpu, vcpu.index))

    monkeypatch.setattr(exits, "handle_exit", handle_exit)
    rig.run(*RACE)
    assert seen == [(True, True, 0), (True, True, 1)]
    assert rig.suite._calls.principal is None
    assert rig.rules == []


def test_what_a_refused_exit_saves_may_not_be_changed(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = dispatch.vmcall

    def vmcall(hv: Any, vcpu: Any) -> None:
        handle(hv, vcpu)
        hv.domains[1].vcpus[1].vmcs.saved[RAX] = 5

    rig.run("cpuid(dom1.1, leaf=0)")
    monkeypatch.setitem(exits.HANDLERS, exits.ExitReason.VMCALL, vmcall)
    rig.run(*RACE)
    assert rig.rules[0] == "principal/injection"


def test_a_copy_outside_of_all_exits(watched: Any) -> None:
    rig = watched("principal")
    vcpu = rig.machine.vcpus[1]
    assert rig.during(lambda: rig.suite.guest_copy(vcpu, 0, 0x1000, 8, False)) == ["principal/copy"]


@pytest.mark.parametrize(
    ("step", "rules"),
    [
        (BlockVcpu(1, 0), []),
        (BlockVcpu(1, 1), ["principal/step"]),
        (BlockVcpu(2, 0), ["principal/step"]),
        (WakeVcpu(1, 1), ["principal/step"]),
    ],
)
def test_a_step_names_the_vcpu_that_exits(watched: Any, monkeypatch: pytest.MonkeyPatch, step: Any, rules: Any) -> None:
    rig = watched("principal")
    monkeypatch.setattr(Block, "check", lambda *_: Effect((step,)))
    rig.run("sched.block(dom1)")
    assert rig.rules == rules


def test_a_kick_names_another_vcpu_of_the_domain(watched: Any) -> None:
    rig = watched("principal")
    rig.run("sched.block(dom1.1)", "sched.kick(dom1, vcpu=1)")
    assert rig.rules == []


def test_the_guest_itself_may_translate_in_a_race(rig: Any) -> None:
    """Another vCPU runs in the middle of an exit: that is no translation by the hypervisor."""
    rig.suite.watch_closely(True)
    rig.run("race 0: load(dom1.1, gva=DIRECT+0x41000, size=8)", RACE[1])
    assert rig.rules == []
    rig.suite.watch_closely(False)


def test_a_translation_for_another_vcpu(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def cpuid(hv: Any, vcpu: Any) -> None:
        hv.machine.mmu.translate(hv.domains[2].vcpus[0], 0xFFFF_8800_0001_0000, READ, False)
        exits.cpuid(hv, vcpu)

    rig.suite.watch_closely(True)
    monkeypatch.setitem(exits.HANDLERS, exits.ExitReason.CPUID, cpuid)
    rig.run("cpuid(dom1, leaf=0)")
    assert rig.rules[0] == "principal/translation"
    rig.suite.watch_closely(False)
