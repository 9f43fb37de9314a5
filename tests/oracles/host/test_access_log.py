"""The access log: host accesses that are not announced, or differ from their announcement, are reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.guest.format.text import parse
from hvfuzz.hypervisor.hypercalls.device import dma_submit
from hvfuzz.hypervisor.hypercalls.grant import copy
from hvfuzz.hypervisor.hypercalls.memory import reservation
from hvfuzz.hypervisor.hypercalls.memory.exchange import PutGuest
from hvfuzz.hypervisor.hypercalls.memory.reservation import PopulatePage, RemovePage
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

DIRECT = 0xFFFF_8800_0000_0000
COPY = "grant.copy(dom1, flags=0, from=0x40, to=0x41, length=1)"
EXCHANGE = f"memory.exchange(dom1, gfns=[0x60], out={DIRECT + 0x40000}, count=1)"
BATCH = (
    "device.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)",
    "device.dma_batch(dom1, device=0, ring=[1, 0, 0x1000, 8])",
)
POPULATE = "memory.populate(dom1, first=0x200, count=1, order=0)"
DECREASE = "memory.decrease(dom1, first=0x50, count=1)"
SILENT = ["host_memory/unannounced"]


@pytest.fixture
def close(watched: Callable[..., Any]) -> Any:
    rig = watched("host_memory")
    rig.suite.watch_closely(True)
    return rig


def copy_words(hv: Any, vcpu: Any, source: int, dest: int, length: int) -> None:
    """Whole words are copied."""
    hv.observer.guest_copy(vcpu, -1, source, length, False)
    hv.observer.guest_copy(vcpu, -1, dest, length, True)
    hv.machine.memory.copy(dest, source, length + 7 & ~7)


def put_more(hv: Any, vcpu: Any, gva: int, hpa: int, data: bytes) -> None:
    """What is behind the data goes along."""
    hv.host.observer.guest_copy(vcpu, gva, hpa, len(data), True)
    hv.machine.memory.write(hpa, data + b"?")


def fetch_again(self: Any, hv: Any, vcpu: Any) -> Any:
    """The count is read again, through the host's own mapping."""
    found = REQUESTS(self, hv, vcpu)
    hv.machine.memory.load64(guest_access.translate_for(hv, vcpu, self.ring, 1))
    return found


REQUESTS = dma_submit.DmaBatch.requests


def look_and_write(self: PopulatePage, hv: Any) -> None:
    """A word of the new page is looked at after it was announced, then another one is written."""
    POPULATE_PAGE(self, hv)
    hv.host.read64(hv.frames.base)
    hv.machine.memory.load(hv.frames.base, 4)
    hv.machine.memory.store(self.hfn << PAGE_SHIFT, 4, 0)


POPULATE_PAGE = PopulatePage.apply


def scrub_neighbour(self: RemovePage, hv: Any) -> None:
    """The frame behind is scrubbed too."""
    REMOVE_PAGE(self, hv)
    hv.machine.memory.fill(self.hfn + 1)


REMOVE_PAGE = RemovePage.apply


@pytest.mark.parametrize(
    ("holder", "name", "wrong", "lines"),
    [
        (copy, "copy_bytes", copy_words, (COPY,)),
        (guest_access, "write_at", put_more, (EXCHANGE,)),
        (dma_submit.DmaBatch, "requests", fetch_again, BATCH),
        (PopulatePage, "apply", look_and_write, (POPULATE,)),
        (RemovePage, "apply", scrub_neighbour, (DECREASE,)),
    ],
)
@pytest.mark.parametrize("faulty", [False, True])
def test_access_that_was_not_announced(
    close: Any, monkeypatch: pytest.MonkeyPatch, faulty: bool, holder: Any, name: str, wrong: Any, lines: Any
) -> None:
    if faulty:
        monkeypatch.setattr(holder, name, wrong)
    trace = close.run(*lines)
    assert [outcome.status for outcome in trace.outcomes] == [0] * len(lines)
    assert close.rules == (SILENT if faulty else [])


def in_host(rig: Any, action: Callable[[Any], object]) -> list[str]:
    """Have a hypercall do something, in code of the host's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PutGuest, "apply", lambda _self, hv: action(hv))
        rig.suite.op_started(0, "test")
        rig.run(EXCHANGE)
    return [rule for rule in rig.rules if rule == SILENT[0]]


@pytest.mark.parametrize(
    "act",
    [
        lambda memory, hpa: memory.load64(hpa),
        lambda memory, hpa: memory.load(hpa, 2),
        lambda memory, hpa: memory.read(hpa, 32),
        lambda memory, hpa: memory.store64(hpa, 0),
        lambda memory, hpa: memory.store(hpa, 2, 0),
        lambda memory, hpa: memory.write(hpa, bytes(32)),
        lambda memory, hpa: memory.fill(hpa >> PAGE_SHIFT),
        lambda memory, hpa: memory.copy(hpa, hpa + 64, 32),
    ],
)
@pytest.mark.parametrize("announced", [False, True])
def test_each_way_to_memory(close: Any, act: Callable[[Any, int], object], announced: bool) -> None:
    hpa = close.frame(1, 0x50) << PAGE_SHIFT

    def action(hv: Any) -> None:
        if announced:
            hv.observer.host_access(hpa, PAGE_SIZE, False)
            hv.observer.host_access(hpa, PAGE_SIZE, True)
        act(hv.machine.memory, hpa)

    assert in_host(close, action) == ([] if announced else SILENT)


def test_a_guest_copy_is_good_for_one_access(close: Any) -> None:
    vcpu, hpa = close.hv.domains[1].vcpus[0], close.frame(1, 0x50) << PAGE_SHIFT

    def once(hv: Any) -> None:
        hv.machine.fetches.before()
        hv.observer.guest_copy(vcpu, DIRECT + 0x50000, hpa, 8, False)
        hv.machine.memory.load64(hpa)

    def unraced(hv: Any) -> None:
        hv.observer.guest_copy(vcpu, DIRECT + 0x50000, hpa, 8, False)
        hv.machine.memory.load64(hpa)

    def twice(hv: Any) -> None:
        once(hv)
        hv.machine.memory.load64(hpa)

    assert in_host(close, once) == []
    close.restore()
    close.suite.watch_closely(True)
    assert in_host(close, twice) == SILENT
    close.restore()
    close.suite.watch_closely(True)
    assert in_host(close, unraced) == SILENT


def test_what_is_announced_to_be_read_is_not_to_be_written(close: Any) -> None:
    hpa = close.frame(1, 0x50) << PAGE_SHIFT

    def action(hv: Any) -> None:
        hv.host.read(hpa, 8)
        hv.machine.memory.store64(hpa, 0)

    assert in_host(close, action) == SILENT


def test_guests_devices_and_races_are_silent(close: Any) -> None:
    close.run(
        *BATCH,
        "device.dma_submit(dom1, device=0, from=0, to=0x1000, length=64)",
        f"store(dom1, gva={DIRECT + 0x40FFC}, size=8, value=1)",
        f"race 1: store(dom1.1, gva={DIRECT + 0x40000}, size=8, value=0x41)",
        COPY,
        f"race 0: pte(dom1.1, gva={DIRECT + 0x41000}, level=1, entry=0x41003)",
        EXCHANGE,
        "mmio_write(dom1, device=0, size=8)",
        "cpuid(dom1, leaf=0x40000000)",
    )
    close.suite.audit()
    assert close.rules == []


def test_looking_closely_ends(close: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemovePage, "apply", scrub_neighbour)
    for closely in (False, True, False):
        close.restore()
        close.suite.watch_closely(closely)
        assert (type(close.memory) is PhysicalMemory) is not closely
        close.run(DECREASE)
        assert close.rules == (SILENT if closely else [])


def test_runs_that_are_audited_are_looked_at_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmulatedTarget() as target:
        target.system(0)
        program = parse(f"# hvp 1\nworld pair\n{DECREASE}\n", target.catalogue)
        monkeypatch.setattr(RemovePage, "apply", scrub_neighbour)
        for audit in (True, False, True):
            found = [finding.identity for finding in target.run(program, audit=audit).findings]
            seen = ["host_memory/unannounced/memory.decrease", "contents/foreign/memory.decrease"]
            assert found == (seen if audit else [])


# What the other half of the rule sees without hooks.


@pytest.mark.parametrize("line", [POPULATE, "memory.populate(dom1, first=0x400, count=1, order=9)"])
def test_fresh_page_that_is_written(watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    def write(step: Any, hv: Any, apply: Any) -> None:
        apply(step, hv)
        hv.machine.memory.store((step.hfn << PAGE_SHIFT) + 77, 1, 1)

    for step in (reservation.PopulatePage, reservation.PopulateBlock):
        apply = step.apply
        monkeypatch.setattr(step, "apply", lambda self, hv, apply=apply: write(self, hv, apply))
    rig = watched("host_memory")
    rig.run(line)
    assert rig.rules == ["host_memory/fresh"]


def test_fresh_page_to_which_the_call_itself_writes(watched: Callable[..., Any]) -> None:
    rig = watched("host_memory")
    trace = rig.run(f"memory.exchange(dom1, gfns=[0x40], out={DIRECT + 0x40000}, count=1)", POPULATE)
    assert [outcome.status for outcome in trace.outcomes] == [0, 0]
    assert rig.memory.load64(rig.frame(1, 0x40) << PAGE_SHIFT) == 0x40
    assert rig.rules == []


@pytest.mark.parametrize("crossing", [False, True])
def test_copy_across_pages_in_one_go(
    watched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, crossing: bool
) -> None:
    def put(self: PutGuest, hv: Any) -> None:
        vcpu = hv.machine.vcpus[self.vcpu]
        hpa = guest_access.translate_for(hv, vcpu, self.gva, 2)
        hv.observer.guest_copy(vcpu, self.gva, hpa, len(self.data), True)
        hv.machine.memory.write(hpa, self.data)

    if crossing:
        monkeypatch.setattr(PutGuest, "apply", put)
    rig = watched("fetch")
    rig.run(f"memory.exchange(dom1, gfns=[0x60, 0x61], out={DIRECT + 0x40FF8}, count=2)")
    assert rig.rules == (["fetch/crossing"] if crossing else [])
