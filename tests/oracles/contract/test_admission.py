"""FAULT is answered where nothing leads, before anything is done, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.hypercalls import multicall
from hvfuzz.hypervisor.hypercalls.memory import exchange
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import U64

DIRECT = 0xFFFF_8800_0000_0000
READ_ONLY = (f"pte(dom1, gva={DIRECT + 0x41000}, level=1, entry=0x41061)", f"invlpg(dom1, gva={DIRECT + 0x41000})")
EXCHANGE = f"memory.exchange(dom1, gfns=[0x60], out={DIRECT + 0x41000}, count=1)"
FAULT = -3


@pytest.fixture
def spec(watched: Callable[..., Any]) -> Any:
    return watched("specification")


def identities(rig: Any) -> list[str]:
    return [finding.identity.removeprefix("specification/") for finding in rig.suite.findings]


def refuse_crossing(hv: Any, vcpu: Any, gva: int, size: int) -> bytes | None:
    """Ranges that cross a page are refused."""
    if size and (gva ^ gva + size - 1) >> 12:
        return None
    return guest_access.raw_copy_from_guest(hv, vcpu, gva, size) if guest_access.guest_range_ok(gva, size) else None


def only_the_upper_half(hv: Any, vcpu: Any, gva: int, wanted: int) -> int | None:
    """User pages cannot be named."""
    return None if gva < 1 << 47 else TRANSLATE(hv, vcpu, gva, wanted)


TRANSLATE = guest_access.translate_for


@pytest.mark.parametrize("target", ["out=" + hex(DIRECT + 0x41000), "out=" + hex(DIRECT + 0x40FFC)])
@pytest.mark.parametrize(
    "shut",
    [
        READ_ONLY,
        ("memory.protect(dom1, first=0x41, count=1, rights=R)",),
        ("memory.decrease(dom1, first=0x41, count=1)",),
    ],
)
def test_exchange_whose_outcome_cannot_be_written(
    spec: Any, monkeypatch: pytest.MonkeyPatch, target: str, shut: tuple[str, ...]
) -> None:
    lines = (*shut, f"memory.exchange(dom1, gfns=[0x60], {target}, count=1)")
    assert spec.run(*lines).outcomes[-1].status == FAULT
    assert identities(spec) == []
    spec.restore()
    monkeypatch.setattr(exchange.Exchange, "out_ok", lambda *_: True)
    assert spec.run(*lines).outcomes[-1].status == 0
    assert identities(spec) == ["status/memory.exchange"]


def test_exchange_that_never_writes_its_outcome(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange.PutGuest, "apply", lambda *_: None)
    spec.run(EXCHANGE)
    assert identities(spec) == ["written/memory.exchange"]


def test_exchange_that_takes_its_own_way_away(spec: Any) -> None:
    """The guest gives up the page table through which its outcome is written."""
    vcpu = spec.hv.domains[1].vcpus[0]
    table = vcpu.cr3 >> 12
    assert spec.run(f"memory.exchange(dom1, gfns=[{table}], out={DIRECT + 0x41000}, count=1)").outcomes[0].status == 0
    assert identities(spec) == []


@pytest.mark.parametrize("fetch", [0, 1, 2])
def test_race_that_opens_the_way(spec: Any, fetch: int) -> None:
    """What could not be written when the call began can be when it looks."""
    opening = f"race {fetch}: pte(dom1.1, gva={DIRECT + 0x41000}, level=1, entry=0x41063)"
    assert spec.run(*READ_ONLY, opening, EXCHANGE).outcomes[-1].status == 0
    assert identities(spec) == []


BATCH = (
    f"store(dom1, gva={DIRECT + 0x40000}, size=8, value=0x40)",
    f"store(dom1, gva={DIRECT + 0x40008}, size=8, value={DIRECT + 0x42000})",
    f"store(dom1, gva={DIRECT + 0x42000}, size=8, value=0x10008)",
)
CALL = f"multicall(dom1, entries={DIRECT + 0x40000}, count=1)"


def unchecked(self: multicall.Multicall, hv: Any, caller: Any, vcpu: Any) -> Any:
    """That the entries can be written is not checked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guest_access, "writable", lambda *_: True)
        return CHECK(self, hv, caller, vcpu)


CHECK = multicall.Multicall.check


@pytest.mark.parametrize("checked", [True, False])
def test_batch_that_cannot_be_written(spec: Any, monkeypatch: pytest.MonkeyPatch, checked: bool) -> None:
    if not checked:
        monkeypatch.setattr(multicall.Multicall, "check", unchecked)
    lines = (
        f"pte(dom1, gva={DIRECT + 0x40000}, level=1, entry=0x40021)",
        f"invlpg(dom1, gva={DIRECT + 0x40000})",
        CALL,
    )
    assert spec.run(*BATCH, *lines).outcomes[-1].status == FAULT
    assert identities(spec) == ([] if checked else ["nested/multicall"])


@pytest.mark.parametrize("spurious", [False, True])
def test_batch_that_faults_on_the_way(spec: Any, monkeypatch: pytest.MonkeyPatch, spurious: bool) -> None:
    if spurious:
        monkeypatch.setattr(guest_access, "copy_to_guest", lambda *_: False)
    spec.run(*BATCH, CALL)
    assert identities(spec) == (["status/multicall"] if spurious else [])


def test_batch_whose_outcome_is_half_written(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry that is run takes the second page of its own outcome away."""

    def page_by_page(hv: Any, vcpu: Any, gva: int, data: bytes) -> bool:
        first = 4096 - (gva & 4095)
        return RAW(hv, vcpu, gva, data[:first]) and (not data[first:] or RAW(hv, vcpu, gva + first, data[first:]))

    entry = DIRECT + 0x40FE8
    lines = (
        f"store(dom1, gva={entry}, size=8, value=0x12)",
        f"store(dom1, gva={entry + 8}, size=8, value={DIRECT + 0x42000})",
        f"store(dom1, gva={DIRECT + 0x42000}, size=8, value=0x20018)",
        f"store(dom1, gva={DIRECT + 0x42008}, size=8, value=0x41)",
        f"store(dom1, gva={DIRECT + 0x42010}, size=8, value=0x100000001)",
        f"multicall(dom1, entries={entry}, count=1)",
    )
    assert spec.run(*lines).outcomes[-1].status == FAULT
    assert identities(spec) == []
    spec.restore()
    monkeypatch.setattr(guest_access, "raw_copy_to_guest", page_by_page)
    assert spec.run(*lines).outcomes[-1].status == FAULT
    assert identities(spec) == ["written/multicall"]


RAW = guest_access.raw_copy_to_guest


@pytest.mark.parametrize(
    ("line", "identity"),
    [
        ("console.write(dom1, text=0x400000, length=16)", "status/console.write"),
        ("sched.poll(dom1, ports=0x400000, count=1, timeout=0)", "status/sched.poll"),
        (f"vmcall(dom1, rax=discovery.limits, rdi={0x400000:#x})", "dispatch/discovery.limits"),
    ],
)
def test_fault_where_the_guest_has_a_way(spec: Any, monkeypatch: pytest.MonkeyPatch, line: str, identity: str) -> None:
    spec.run(line)
    assert identities(spec) == []
    spec.restore()
    monkeypatch.setattr(guest_access, "translate_for", only_the_upper_half)
    assert spec.run(line).outcomes[0].status == FAULT
    assert identities(spec) == [identity]


@pytest.mark.parametrize("gva", [DIRECT + 0x40FF8, DIRECT + 0x40FFC])
@pytest.mark.parametrize("nested", [False, True])
def test_struct_across_pages(spec: Any, monkeypatch: pytest.MonkeyPatch, gva: int, nested: bool) -> None:
    lines = [
        f"store(dom1, gva={gva}, size=8, value=0x20010)",
        f"store(dom1, gva={gva + 8}, size=8, value=1)",
        f"store(dom1, gva={DIRECT + 0x42000}, size=8, value=3)",
        f"store(dom1, gva={DIRECT + 0x42008}, size=8, value={gva})",
        f"multicall(dom1, entries={DIRECT + 0x42000}, count=1)"
        if nested
        else f"vmcall(dom1, rax=discovery.limits, rdi={gva})",
    ]
    spec.run(*lines)
    assert identities(spec) == []
    spec.restore()
    monkeypatch.setattr(guest_access, "copy_from_guest", refuse_crossing)
    spec.run(*lines)
    crossing = gva & 4095 > 4088
    assert identities(spec) == (["dispatch/discovery.limits"] if crossing else [])


def test_struct_of_the_second_entry(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry's own pointer counts, in which nothing was read."""
    at = DIRECT + 0x42000
    lines = [
        *BATCH,
        *(f"store(dom1, gva={at + offset}, size=8, value={value})" for offset, value in enumerate_words(0x40, 3)),
        f"multicall(dom1, entries={at}, count=2)",
    ]
    spec.run(*lines)
    assert identities(spec) == []
    spec.restore()
    monkeypatch.setattr(dispatch.guest_access, "translate_for", only_the_upper_half)
    spec.run(*lines)
    assert identities(spec) == ["dispatch/discovery.limits"]


def enumerate_words(first: int, second: int) -> list[tuple[int, int]]:
    """Two entries, of which the first one's struct is in the upper half, and the second one's in the lower."""
    words = (first, DIRECT + 0x43000, 0, 0, second, 0x400000, 0, 0)
    return [(8 * index, word & U64) for index, word in enumerate(words)]
