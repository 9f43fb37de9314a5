"""Every field of a vCPU and of its VMCS is compared in each exit of another vCPU, or has a reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.core import exits
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason, Vmcs
from hvfuzz.oracles.principal.vcpu_states import ELSEWHERE, PROCESSOR, VMCS


def test_every_field_is_compared_or_has_a_reason() -> None:
    assert sorted((*PROCESSOR, *ELSEWHERE)) == sorted((*CpuState.__slots__, *VCpu.__slots__))
    assert sorted(VMCS) == sorted(Vmcs.__slots__)
    assert all(ELSEWHERE.values())


def other_value(value: Any) -> Any:
    """Some value of the same type that differs."""
    if value is None:
        return GuestFault(13)
    if isinstance(value, list):
        return [each if isinstance(each, dict | tuple) else each + 1 for each in value]
    if isinstance(value, dict):
        return {**value, 0x174: 8}
    if isinstance(value, tuple):
        return (value[0], value[1] + 1)
    if isinstance(value, Vmcs):
        return Vmcs()
    if isinstance(value, bool):
        return not value
    return ExitReason.PAUSE if isinstance(value, ExitReason) else value + 1


def gives(rig: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> list[str]:
    """The messages of a program in which each CPUID of vCPU 0 of dom1 makes `change` to vCPU 1."""
    handle = exits.cpuid

    def cpuid(hv: Any, vcpu: Any) -> None:
        handle(hv, vcpu)
        if vcpu.domain == 1 and vcpu.index == 0:
            change(hv.domains[1].vcpus[1])

    monkeypatch.setitem(exits.HANDLERS, exits.ExitReason.CPUID, cpuid)
    rig.run("cpuid(dom1.1, leaf=0)", "cpuid(dom1, leaf=0)")
    return [each.message for each in rig.suite.findings if each.oracle == "principal"]


@pytest.mark.parametrize("field", PROCESSOR)
def test_each_field_of_a_vcpu(watched: Any, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    rig = watched("principal")
    messages = gives(rig, monkeypatch, lambda vcpu: setattr(vcpu, field, other_value(getattr(vcpu, field))))
    assert messages
    assert "gives vCPU " in messages[0]


@pytest.mark.parametrize("field", VMCS)
def test_each_field_of_a_vmcs(watched: Any, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    rig = watched("principal")
    messages = gives(rig, monkeypatch, lambda vcpu: setattr(vcpu.vmcs, field, other_value(getattr(vcpu.vmcs, field))))
    assert len(messages) == 1
    assert "gives vCPU 1 of dom1" in messages[0]


def test_the_message_has_both_values(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(vcpu: Any) -> None:
        vcpu.efer = 0x100
        vcpu.msrs[0xC000_0082] = 0x4000

    messages = gives(watched("principal"), monkeypatch, change)
    given = "an exit of vCPU 0 of dom1 gives vCPU 1 of dom1 MSR 0xc0000082 = 0x4000 instead of 0xffff880000009000"
    assert messages[0] == given


def test_what_a_vcpu_does_itself_is_its_own(rig: Any) -> None:
    rig.run(
        "wrmsr(dom1.1, index=LSTAR, value=0x1000)",
        "cpuid(dom1, leaf=0)",
        "mov_cr(dom1.1, register=CR4, value=0x300020)",
        "race 0: wrmsr(dom1.1, index=LSTAR, value=0x2000)",
        "discovery.limits(dom1, what=GRANTS)",
        "multicall(dom1, count=2)",
        "  race 1: mov_cr(dom1.1, register=CR4, value=0x20)",
        "  discovery.limits(dom1, what=GRANTS)",
        "  discovery.limits(dom1, what=PORTS)",
        "cpuid(dom2, leaf=0)",
    )
    assert rig.rules == []


def test_an_instruction_is_raced_before_its_exit(rig: Any) -> None:
    """At CPL 3 the processor reads the I/O bitmap before OUTS exits: by then the guest has loaded RCX and RSI."""
    rig.run(
        "ltr(dom2, gva=0, limit=0x8000)",
        "sysret(dom2)",
        "memory.populate(dom0, first=0, count=0, order=0)",
        "race 0: multicall(dom2.1, count=0)",
        "outs(dom2, port=0, size=0, gva=0, times=2)",
    )
    assert rig.rules == []
