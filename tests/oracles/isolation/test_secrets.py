"""The oracle `secrets`: a canary that reaches a guest in any way is reported, unless it was shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.memory.allocator import Allocator
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.cpu.registers import RAX, RDX
from hvfuzz.machine.devices.dma_engine import DmaEngine

GVA = 0xFFFF_8800_0005_0000
LOAD = f"load(dom1, gva={GVA}, size=8)"


@pytest.fixture
def secrets(watched: Callable[..., Any]) -> Any:
    return watched("secrets")


def heap_canary(rig: Any) -> int:
    word: int = rig.memory.load64(rig.hv.bounce & -4096)
    return word


def plant(rig: Any, word: int, domain: int = 1, gfn: int = 0x50, offset: int = 0) -> None:
    rig.memory.write((rig.frame(domain, gfn) << PAGE_SHIFT) + offset, word.to_bytes(8, "little"))


@pytest.mark.parametrize("whose", ["dom2", "heap", "control"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_load(secrets: Any, whose: str, size: int) -> None:
    words = {"dom2": secrets.hv.domains[2].canary, "heap": heap_canary(secrets), "control": secrets.hv.canary}
    plant(secrets, words[whose])
    secrets.run(f"load(dom1, gva={GVA}, size={size})")
    assert secrets.rules == ["secrets/load"]


def test_load_across_words(secrets: Any) -> None:
    plant(secrets, secrets.hv.domains[2].canary, offset=8)
    secrets.run(f"load(dom1, gva={GVA + 4}, size=8)")
    assert secrets.rules == ["secrets/load"]


def test_own_secret(secrets: Any) -> None:
    plant(secrets, secrets.hv.domains[1].canary)
    secrets.run(LOAD)
    assert secrets.rules == []


def test_secret_of_a_domain_that_granted_something(secrets: Any) -> None:
    plant(secrets, secrets.hv.domains[2].canary)
    secrets.run("grant.create(dom2, gfn=0x30, to=1, rights=R)", LOAD)
    assert secrets.rules == []


def test_sharing_is_passed_on(secrets: Any) -> None:
    plant(secrets, secrets.hv.domains[2].canary)
    secrets.run("grant.create(dom2, gfn=0x30, to=0, rights=R)", "grant.create(dom1, gfn=0x30, to=0, rights=R)", LOAD)
    assert secrets.rules == []


def test_sharing_ends_with_the_program(secrets: Any) -> None:
    secrets.run("grant.create(dom2, gfn=0x30, to=1, rights=R)")
    secrets.restore()
    plant(secrets, secrets.hv.domains[2].canary)
    secrets.run(LOAD)
    assert secrets.rules == ["secrets/load"]


def test_the_heap_is_secret_whatever_was_shared(secrets: Any) -> None:
    plant(secrets, heap_canary(secrets))
    secrets.run("grant.create(dom2, gfn=0x30, to=1, rights=R)", LOAD)
    assert secrets.rules == ["secrets/load"]


def test_secret_of_a_new_heap_page(secrets: Any) -> None:
    secrets.run("r0 = event.alloc(dom2, remote=1)")
    page = secrets.hv.domains[2].buckets[0].page
    plant(secrets, secrets.memory.load64(page << PAGE_SHIFT))
    secrets.run("event.close(dom2, port=0)", LOAD)
    assert secrets.rules == ["secrets/load"]


@pytest.mark.parametrize("shift", [0, 32])
def test_register(secrets: Any, monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    half = heap_canary(secrets) >> shift & 0xFFFF_FFFF
    monkeypatch.setattr(exits, "cpuid_leaf", lambda *_: (0, half, 0, 0))
    secrets.run("cpuid(dom1, leaf=5)")
    assert secrets.rules == ["secrets/register"]


def test_register_that_the_guest_had_set_itself(secrets: Any) -> None:
    """It knows the word, from wherever: what counts is where it learnt it."""
    vcpu = secrets.machine.vcpus[1]
    vcpu.regs[RDX] = heap_canary(secrets)
    secrets.run("hlt(dom1)")
    assert secrets.rules == []


def test_result_of_a_call(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def leak(_hv: Any, vcpu: Any) -> None:
        vcpu.vmcs.saved[RAX] = secrets.hv.domains[2].canary

    monkeypatch.setattr(exits, "handle_exit", leak)
    secrets.run("vmcall(dom1, rax=1, rdi=0)")
    assert secrets.rules == ["secrets/register"]


@pytest.mark.parametrize("gva", [GVA, -1])
def test_copy_to_a_guest(secrets: Any, gva: int) -> None:
    vcpu = secrets.machine.vcpus[1]
    hpa = secrets.frame(1, 0x50) << PAGE_SHIFT
    data = b"xyz" + secrets.hv.domains[2].canary.to_bytes(8, "little")

    def copy() -> None:
        secrets.suite.call_started(vcpu, None, None)
        secrets.suite.guest_copy(vcpu, gva, hpa, len(data), True)
        secrets.memory.write(hpa, data)
        secrets.suite.call_finished(vcpu, None, None, 0, 0, "")

    assert secrets.during(copy) == ["secrets/copied"]


@pytest.mark.parametrize(("word", "rule"), [(0x1234, "residue"), (None, "canary")])
def test_frame_that_is_not_scrubbed(secrets: Any, word: int | None, rule: str) -> None:
    free = secrets.hv.allocator.choose(1)[0]
    secrets.memory.store64((free << PAGE_SHIFT) + 0x808, heap_canary(secrets) if word is None else word)
    secrets.run("memory.populate(dom1, first=0x1f0, count=1)")
    assert secrets.rules == [f"secrets/{rule}"]


def test_own_secret_in_a_fresh_frame(secrets: Any) -> None:
    """It is no leak, but shows that nobody scrubbed."""
    free = secrets.hv.allocator.choose(1)[0]
    secrets.memory.store64(free << PAGE_SHIFT, secrets.hv.domains[1].canary)
    secrets.run("memory.populate(dom1, first=0x1f0, count=1)")
    assert secrets.rules == ["secrets/residue"]


def test_frame_that_becomes_a_domains_unannounced(secrets: Any) -> None:
    page = secrets.frame(2, 0x30)
    word = secrets.word(page)
    assert secrets.poke(word, 1 | FrameState.OWNED << 8 | 1 << 16) == ["secrets/canary"]


def test_scrubbing_left_out(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-100: what dom2 had in its frame is dom1's to read."""
    monkeypatch.setattr(Allocator, "scrub", lambda *_: None)
    secrets.run("memory.decrease(dom2, first=0x30, count=1)", "memory.populate(dom1, first=0x1f0, count=1)")
    assert secrets.rules == ["secrets/canary"]


def test_legal_results_written_into_a_fresh_frame(secrets: Any) -> None:
    """The array that the call writes lies in a page that it exchanges."""
    trace = secrets.run(f"memory.exchange(dom1, gfns=[0x50], out={GVA}, count=1)", LOAD)
    assert [outcome.status for outcome in trace.outcomes] == [0, 0]
    assert trace.outcomes[1].result == 0x50
    assert secrets.rules == []


def test_device_that_is_not_reset(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("mmio_write(dom1, device=0, register=0, size=8, value=0x123456)", "device.deassign(dom0, device=0)")
    secrets.run(*lines)
    assert secrets.rules == []
    secrets.restore()
    monkeypatch.setattr(DmaEngine, "reset", lambda _self: None)
    secrets.run(*lines)
    assert secrets.rules == ["secrets/device"]


@pytest.mark.parametrize("offset", [1, 3, 6])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_load_of_a_secret_that_is_not_aligned(secrets: Any, offset: int, size: int) -> None:
    plant(secrets, secrets.hv.domains[2].canary, offset=offset)
    secrets.run(f"load(dom1, gva={GVA + 8 - size}, size={size})")
    assert secrets.rules == ["secrets/load"]


def test_load_beside_a_secret(secrets: Any) -> None:
    plant(secrets, secrets.hv.domains[2].canary, offset=3)
    secrets.run(f"load(dom1, gva={GVA + 11}, size=1)", f"load(dom1, gva={GVA + 2}, size=1)")
    assert secrets.rules == []


@pytest.mark.parametrize("at", range(5))
def test_four_bytes_in_a_register(secrets: Any, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    part = heap_canary(secrets) >> 8 * at & 0xFFFF_FFFF
    monkeypatch.setattr(exits, "cpuid_leaf", lambda *_: (0, part << 24, 0, 0))
    secrets.run("cpuid(dom1, leaf=5)")
    assert secrets.rules == ["secrets/register"]


def test_serial_port(secrets: Any) -> None:
    """A byte at a time: what is searched is all that was sent."""
    uart = secrets.hv.domains[1].devices.by_name["uart"]
    for byte in secrets.hv.canary.to_bytes(8, "little")[1:6]:
        uart.port_write(0, 1, byte)
    secrets.run("in(dom1, port=0x3fd, size=1)")
    assert secrets.rules == ["secrets/sent"]


def test_string_that_goes_out(secrets: Any) -> None:
    plant(secrets, secrets.hv.domains[2].canary, offset=5)
    secrets.run(f"outs(dom1, port=0x80, size=1, gva={GVA}, times=12)")
    assert secrets.rules == ["secrets/sent"]


def test_string_that_comes_in(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.hv.canary.to_bytes(8, "little")
    uart = secrets.hv.domains[1].devices.by_name["uart"]
    left = list(secret)
    monkeypatch.setattr(type(uart), "port_read", lambda *_: left.pop(0))
    secrets.run(f"ins(dom1, port=0x3f8, size=1, gva={GVA}, times=8)")
    assert secrets.rules == ["secrets/copied"]


def test_console(secrets: Any) -> None:
    secrets.hv.domains[1].console += b"x" + heap_canary(secrets).to_bytes(8, "little")
    secrets.run("console.write(dom1, text=[0x41], length=1)")
    assert secrets.rules == ["secrets/sent"]


@pytest.mark.parametrize("write", [False, True])
def test_device_that_moves_a_secret(secrets: Any, write: bool) -> None:
    device = secrets.machine.devices[0]
    plant(secrets, secrets.hv.domains[2].canary, gfn=0x50, offset=0x123)
    hpa = secrets.frame(1, 0x50) << PAGE_SHIFT
    access = 2 if write else 1
    secrets.during(lambda: secrets.machine.access_observer(device, hpa, 0x200, access))
    assert secrets.rules == ["secrets/dma"]
    verb = "writes" if write else "reads"
    assert f"of dom1 {verb} a secret of dom2" in secrets.suite.findings[0].message


def test_sector_that_holds_a_secret(secrets: Any) -> None:
    device = secrets.machine.devices[0]
    device.private += b"abc" + secrets.hv.domains[2].canary.to_bytes(8, "little") + bytes(500)
    secrets.suite.audit()
    assert [finding.identity for finding in secrets.suite.findings] == ["secrets/dma/audit"]
