"""The oracle `contents` alone: it names who wrote what he may not, the frame, the offset, and the bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.bugs import find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.oracles.contents.contents import CONTENTS
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

FAULTS = Path(__file__).parents[1]
GVA = 0xFFFF_8800_0005_0000


@pytest.fixture
def contents(watched: Callable[..., Any]) -> Any:
    rig = watched(CONTENTS)
    rig.suite.watch_closely(True)
    return rig


def in_cpuid(rig: Any, monkeypatch: pytest.MonkeyPatch, deed: Callable[[Any], object]) -> list[str]:
    """Let the hypervisor do something while it emulates CPUID for dom1; the rules broken."""

    def cpuid(hv: Any, vcpu: Any) -> None:
        deed(hv)
        exits.step_over(vcpu.vmcs)

    monkeypatch.setitem(exits.HANDLERS, exits.ExitReason.CPUID, cpuid)
    rig.run("cpuid(dom1, leaf=5)")
    rules: list[str] = rig.rules
    return rules


@pytest.mark.parametrize(
    ("path", "identity"),
    [
        ("faults/string_of_twin", "contents/taken/outs"),
        ("faults/result_overruns_its_page", "contents/foreign/memory.exchange"),
        ("faults/scrub_leaves_last_word", "contents/free/memory.decrease"),
        ("faults/scrub_in_two_runs", "contents/free/memory.decrease"),
        ("faults/console_overwrites_a_canary", "contents/foreign/console.write"),
        ("adversary/c02_contiguous_frames", "contents/foreign/memory.exchange"),
        ("adversary/c02_reserved_last_page", "contents/reserved/device.deassign"),
        ("adversary/c02_scrub_sizeof_pointer", "contents/free/memory.decrease"),
    ],
)
def test_without_any_other_oracle(path: str, identity: str) -> None:
    bug = find_bug(str(FAULTS / f"{path}.py"))
    with EmulatedTarget(bug, oracles=frozenset({CONTENTS})) as target:
        found = [finding.identity for finding in target.run(parse(bug.trigger, target.catalogue)).findings]
    assert found[:1] == [identity]


def test_store_through_a_stale_translation(contents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage2, "flush", lambda _self: None)
    contents.run(
        f"store(dom1, gva={GVA}, size=8, value=1)",
        "memory.decrease(dom1, first=0x50, count=1)",
        "memory.populate(dom2, first=0x100, count=1)",
        f"store(dom1, gva={GVA + 0x123}, size=1, value=0x77)",
    )
    (finding,) = contents.suite.findings
    assert finding.identity == "contents/foreign/store"
    assert finding.message.startswith("vCPU 0 of dom1 changes frame")
    assert "dom2" in finding.message
    assert finding.message.endswith("at offset 0x123: 00 -> 77")


def test_a_domains_page_by_the_hosts_mapping(contents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = contents.frame(2, 0x30) << PAGE_SHIFT
    assert in_cpuid(contents, monkeypatch, lambda hv: hv.host.write(page + 5, b"x")) == ["contents/foreign"]


@pytest.mark.parametrize("domain", [1, 2])
def test_a_domains_page_unannounced(contents: Any, monkeypatch: pytest.MonkeyPatch, domain: int) -> None:
    page = contents.frame(domain, 0x30) << PAGE_SHIFT
    rules = in_cpuid(contents, monkeypatch, lambda hv: hv.machine.memory.store(page + 5, 1, 7))
    assert rules == ["contents/foreign"]
    assert "nobody announced" in contents.suite.findings[0].message


def test_a_page_past_the_methods_of_memory(contents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = contents.frame(2, 0x30) << PAGE_SHIFT
    contents.run("store(dom2, gva=DIRECT+0x30000, size=8, value=1)")

    def poke(hv: Any) -> None:
        hv.machine.memory.data[page + 0x808] = 9

    assert in_cpuid(contents, monkeypatch, poke) == ["contents/foreign"]
    assert "past memory's own methods" in contents.suite.findings[0].message


@pytest.mark.parametrize("place", ["header", "control"])
def test_a_secret_word_of_the_hypervisor(contents: Any, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    hpa = (contents.hv.bounce & -PAGE_SIZE) + 3 if place == "header" else PAGE_SIZE - 8
    assert in_cpuid(contents, monkeypatch, lambda hv: hv.host.write(hpa, b"\1\2")) == ["contents/canary"]


def test_heap_and_tables_unannounced(contents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hpa = contents.hv.bounce + 0x800
    assert in_cpuid(contents, monkeypatch, lambda hv: hv.machine.memory.store64(hpa, 1)) == ["contents/host"]


def test_heap_data_that_the_hypervisor_announces_is_its_own(contents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hpa = contents.hv.bounce + 0x800
    assert in_cpuid(contents, monkeypatch, lambda hv: hv.host.write64(hpa, 1)) == []


def test_a_free_frame(contents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hpa = (contents.in_state(0) << PAGE_SHIFT) + 0x10
    assert in_cpuid(contents, monkeypatch, lambda hv: hv.host.write64(hpa, 1)) == ["contents/free"]


def test_reserved_memory(watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    number = next(number for number, world in enumerate(WORLDS) if world.reserved)
    rig = watched(CONTENTS, world=number)
    rig.suite.watch_closely(True)
    _, base, _ = WORLDS[number].reserved[0]
    assert in_cpuid(rig, monkeypatch, lambda hv: hv.host.write64(base, 1)) == ["contents/reserved"]


def test_legal_ops_are_silent(contents: Any) -> None:
    contents.run(
        f"store(dom1, gva={GVA}, size=8, value=1)",
        f"store(dom1, gva={GVA - 3}, size=8, value=0x1122334455667788)",
        "r2 = grant.create(dom1, gfn=0x50, to=2, rights=R|W)",
        "grant.map(dom2, granter=1, ref=r2, gfn=0x150, iova=0, flags=1)",
        "device.dma_map(dom1, iova=0x1000, gfn=0x40, count=2, rights=R|W)",
        "device.dma_submit(dom1, device=0, from=0x1000, to=0x2000, length=64)",
        f"memory.exchange(dom1, gfns=[0x51], out={GVA}, count=1)",
        "r7 = event.alloc(dom1, remote=dom1)",
        "event.close(dom1, port=r7)",
    )
    assert contents.rules == []


def test_the_hooks_are_taken_away(contents: Any) -> None:
    contents.suite.watch_closely(False)
    assert type(contents.memory).__name__ == "PhysicalMemory"
    contents.memory.store64(contents.frame(2, 0x30) << PAGE_SHIFT, 1)
    contents.run("hlt(dom1)")
    assert contents.rules == []


def test_reserved_memory_that_is_not_zeroed_in_every_run() -> None:
    bug = find_bug("cve-2023-4969")
    with EmulatedTarget(bug, oracles=frozenset({CONTENTS})) as target:
        findings = target.run(parse(bug.trigger, target.catalogue), audit=False).findings
    assert [finding.identity for finding in findings] == ["contents/reserved/device.deassign"]
