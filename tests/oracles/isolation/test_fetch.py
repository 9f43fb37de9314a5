"""The oracle `fetch`: double fetches, unvalidated addresses, callers without the privilege, re-entrancy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import DIRECT_MAP, HYPERVISOR_HOLE_START, USER_BASE
from hvfuzz.hypervisor.core import dispatch, exits
from hvfuzz.hypervisor.hypercalls import multicall
from hvfuzz.hypervisor.hypercalls.device import dma_submit
from hvfuzz.hypervisor.hypercalls.memory import exchange
from hvfuzz.hypervisor.memory import guest_access as access
from hvfuzz.machine.addresses import PAGE_SIZE, READ, WRITE
from hvfuzz.machine.cpu.registers import Saved

ARGS = 0xFFFF_8800_0001_1000
"""The argument page of dom1's vCPU 1; vCPU 0 has the one before."""


@pytest.fixture
def fetch(watched: Callable[..., Any]) -> Any:
    return watched("fetch")


def test_a_ring_that_is_read_again(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-155."""
    once = dma_submit.DmaBatch.requests

    def twice(self: Any, hv: Any, vcpu: Any) -> Any:
        access.copy_from_guest(hv, vcpu, self.ring, 8)
        return once(self, hv, vcpu)

    monkeypatch.setattr(dma_submit.DmaBatch, "requests", twice)
    fetch.run("device.dma_batch(dom1, device=0, ring=[1, 0, 0, 8])")
    assert fetch.rules == ["fetch/twice"]


def test_what_is_written_is_no_reason_to_read_again(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results go where the arguments are; a limit says how far an array goes."""
    once = exchange.Exchange.elements

    def twice(self: Any, hv: Any, vcpu: Any) -> Any:
        once(self, hv, vcpu)
        return once(self, hv, vcpu)

    both = DIRECT_MAP + 0x40000
    line = f"memory.exchange(dom1, gfns={both}, out={both}, count=1)"
    fetch.run(f"store(dom1, gva={both}, size=8, value=0x60)", line)
    assert fetch.rules == []
    monkeypatch.setattr(exchange.Exchange, "elements", twice)
    fetch.run(line)
    assert fetch.rules == ["fetch/twice"]


def test_a_struct_that_is_read_again(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    once = dispatch.fetch_arguments

    def twice(hv: Any, vcpu: Any, caller: Any, declaration: Any, pointer: int) -> Any:
        once(hv, vcpu, caller, declaration, pointer)
        return once(hv, vcpu, caller, declaration, pointer)

    monkeypatch.setattr(dispatch, "fetch_arguments", twice)
    fetch.run("discovery.version(dom1, want=2)")
    assert fetch.rules == ["fetch/twice"]


def test_an_entry_that_is_read_again(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is read as a whole, and each entry once more before it runs."""
    run = multicall.RunEntry.apply

    def again(self: Any, hv: Any) -> None:
        access.copy_from_guest(hv, hv.machine.vcpus[self.vcpu], self.outcome - multicall.OUTCOME_OFFSET, 16)
        run(self, hv)

    monkeypatch.setattr(multicall.RunEntry, "apply", again)
    fetch.run("multicall(dom1, count=2)", "discovery.version(dom1, want=2)", "discovery.version(dom1, want=2)")
    assert [finding.identity for finding in fetch.suite.findings] == ["fetch/twice/multicall"]


@pytest.mark.parametrize(
    "line",
    [
        "multicall(dom1, count=2)",
        "console.write(dom1, text=0xffff880000010000, length=64)",  # the text is the struct
        "device.dma_batch(dom1, device=0, ring=0xffff880000010008)",  # the ring is the struct's body
        "memory.exchange(dom1, gfns=0xffff880000010000, out=0xffff880000010000, count=4)",
        "sched.poll(dom1, ports=0xffff880000010004, count=16)",
    ],
)
def test_arguments_that_overlap(fetch: Any, line: str) -> None:
    """Each is fetched once, as it has to be; that a word belongs to two of them is the guest's choice."""
    fetch.run(line, "discovery.version(dom1, want=2)", "discovery.version(dom1, want=2)")
    assert fetch.rules == []


def test_entries_with_one_struct(fetch: Any) -> None:
    """Two calls of a batch may read the same struct: each is a call of its own."""
    struct = [0x0002_0010, 2]  # size 16, version 2; want
    entries = [1, ARGS, 0, 0, 1, ARGS, 0, 0]
    lines = [f"store(dom1, gva={ARGS + 8 * at}, size=8, value={word})" for at, word in enumerate(struct)]
    lines += [f"store(dom1, gva={ARGS + 256 + 8 * at}, size=8, value={word})" for at, word in enumerate(entries)]
    trace = fetch.run(*lines, f"multicall(dom1, entries={ARGS + 256}, count=2)")
    assert trace.outcomes[-1].result == 2
    assert fetch.rules == []


@pytest.mark.parametrize(
    ("gva", "size"),
    [
        (HYPERVISOR_HOLE_START, 8),
        (HYPERVISOR_HOLE_START - 4, 8),
        ((1 << 47) - 4, 8),
        (1 << 47, 1),
        (2**64 - 8, 16),
        (0xFFFF_87FF_FFFF_FFF8, 8),
    ],
)
@pytest.mark.parametrize("write", [False, True])
def test_address_that_a_guest_may_not_name(fetch: Any, gva: int, size: int, write: bool) -> None:
    vcpu = fetch.machine.vcpus[1]
    assert fetch.during(lambda: fetch.suite.guest_copy(vcpu, gva, 0x1000, size, write)) == ["fetch/unvalidated"]


@pytest.mark.parametrize(("gva", "size"), [(0, 8), ((1 << 47) - 8, 8), (2**64 - 8, 8), (0xFFFF_8800_0000_0000, 1)])
def test_address_that_a_guest_may_name(fetch: Any, gva: int, size: int) -> None:
    vcpu = fetch.machine.vcpus[1]
    # (It does not translate to that, which is another rule's business.)
    assert fetch.during(lambda: fetch.suite.guest_copy(vcpu, gva, 0x1000, size, False)) == ["fetch/translated"]


@pytest.mark.parametrize("access", [READ, WRITE])
def test_a_copy_goes_where_the_tables_lead(fetch: Any, access: int) -> None:
    """With what the TLB holds, and without: the tables in memory say the same."""
    vcpu, write = fetch.machine.vcpus[1], access == WRITE
    for gva in (ARGS, ARGS + 0xFF8, DIRECT_MAP + 0x40008, USER_BASE):
        hpa = fetch.machine.mmu.translate(vcpu, gva, access, False)
        for wrong in (0, 8, PAGE_SIZE, -PAGE_SIZE):
            for flush in (False, True):
                if flush:
                    fetch.machine.tlb.invept(None)
                found = fetch.during(lambda: fetch.suite.guest_copy(vcpu, gva, hpa + wrong, 8, write))  # noqa: B023
                assert found == (["fetch/translated"] if wrong else [])
                fetch.restore()


def test_a_copy_to_a_page_that_stage_2_has_read_only(fetch: Any) -> None:
    fetch.run("memory.protect(dom1, first=0x41, count=1, rights=R)")
    vcpu = fetch.machine.vcpus[1]
    gva = DIRECT_MAP + 0x41000
    hpa = fetch.machine.mmu.translate(vcpu, gva, READ, False)
    assert fetch.during(lambda: fetch.suite.guest_copy(vcpu, gva, hpa, 8, False)) == []
    assert fetch.during(lambda: fetch.suite.guest_copy(vcpu, gva, hpa, 8, True)) == ["fetch/translated"]


def test_a_copy_to_a_page_that_stage_1_has_read_only(fetch: Any) -> None:
    fetch.run(f"pte(dom1, gva={DIRECT_MAP + 0x41000:#x}, level=1, entry=0x41021)")
    vcpu = fetch.machine.vcpus[1]
    gva = DIRECT_MAP + 0x41000
    hpa = fetch.machine.mmu.translate(vcpu, gva, READ, False)
    assert fetch.during(lambda: fetch.suite.guest_copy(vcpu, gva, hpa, 8, True)) == ["fetch/translated"]
    fetch.restore()
    fetch.run(
        f"pte(dom1, gva={DIRECT_MAP + 0x41000:#x}, level=1, entry=0x41021)",
        "mov_cr(dom1, register=0, value=0x80000033)",
    )
    assert fetch.during(lambda: fetch.suite.guest_copy(vcpu, gva, hpa, 8, True)) == []


def test_copies_with_a_stale_translation_are_the_guests_own_fault(rig: Any) -> None:
    """The guest changes an entry and flushes nothing: the processor may go on with the old page, and so the host."""
    rig.run(
        f"load(dom1, gva={ARGS:#x}, size=8)",
        f"pte(dom1, gva={ARGS:#x}, level=1, entry=0x42063)",
        "event.alloc(dom1, remote=dom2)",
        "memory.exchange(dom1, gfns=[0x50, 0x51], out=[0, 0], count=2, start=0)",
        "tlb(dom1, capacity=0)",
        "event.alloc(dom1, remote=dom2)",
    )
    assert rig.rules == []


def entitled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "entitlement", lambda *_: None)


def test_call_from_user_mode(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entitled(monkeypatch)
    fetch.run("sysret(dom1)", "vmcall(dom1, rax=2, rdi=0xffff880000010000)")
    assert fetch.rules == []  # the struct is no good
    fetch.run(
        "syscall(dom1)", "discovery.version(dom1, want=2)", "sysret(dom1)", f"vmcall(dom1, rax=1, rdi={ARGS - 4096})"
    )
    assert fetch.rules == ["fetch/privilege"]


def test_call_after_the_privilege_is_gone(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-213: an entry of a batch returns to user mode, and the batch goes on."""
    run = multicall.RunEntry.apply

    def drop(self: Any, hv: Any) -> None:
        run(self, hv)
        hv.machine.vcpus[self.vcpu].vmcs.saved[Saved.CPL] = 3

    monkeypatch.setattr(multicall.RunEntry, "apply", drop)
    fetch.run("multicall(dom1, count=2)", "discovery.version(dom1, want=2)", "discovery.limits(dom1, what=2)")
    assert [finding.identity for finding in fetch.suite.findings] == ["fetch/privilege/discovery.limits"]


def test_privileged_call_of_an_ordinary_domain(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entitled(monkeypatch)
    fetch.run("device.deassign(dom1, device=0)")
    assert fetch.rules == ["fetch/privilege"]


def test_call_of_a_later_version(watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    entitled(monkeypatch)
    old = watched("fetch", world=1)
    old.run("device.dma_batch(dom2, device=0, ring=0)")
    assert old.rules == ["fetch/version"]


def test_legal_refusals_are_silent(fetch: Any) -> None:
    fetch.run(
        "device.deassign(dom1, device=0)",
        "sysret(dom1)",
        "discovery.version(dom1, want=1)",
        "vmcall(dom1, rax=0x70, rdi=0)",
    )
    assert fetch.rules == []


def test_exit_within_an_exit(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vcpu = fetch.machine.vcpus[1]
    monkeypatch.setattr(exits, "handle_exit", lambda _hv, _vcpu: fetch.machine.exit_handler(vcpu))
    fetch.run("pause(dom1)", "cpuid(dom1, leaf=0)")
    assert fetch.rules == ["fetch/re-entrancy"]


def test_exit_within_an_exit_that_nobody_stops(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vcpu = fetch.machine.vcpus[1]
    vcpu.vmcs.saved = [0] * 25

    def again(_hv: Any, _vcpu: Any) -> None:
        monkeypatch.setattr(exits, "handle_exit", lambda _hv, _vcpu: None)
        fetch.suite.handle_exit(vcpu)

    monkeypatch.setattr(exits, "handle_exit", again)
    assert fetch.during(lambda: fetch.suite.handle_exit(vcpu)) == ["fetch/re-entrancy"]
