"""The oracle `specification`: it reports wrong outcomes of calls and wrong changes of the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.decode import decode_body
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.domains import Mapping
from hvfuzz.hypervisor.core.effects import NOTHING, Effect, Refused
from hvfuzz.hypervisor.hypercalls import console, discovery, event, multicall
from hvfuzz.hypervisor.hypercalls.device import assignment, dma_map, dma_submit
from hvfuzz.hypervisor.hypercalls.grant import copy, mappings
from hvfuzz.hypervisor.hypercalls.memory import exchange, reservation
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.vcpu import scheduler
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.oracles.contract import specification
from hvfuzz.oracles.contract.spec import SPEC

VERSION = "discovery.version(dom1, want=2)"


@pytest.fixture
def spec(watched: Callable[..., Any]) -> Any:
    return watched("specification")


def identities(rig: Any) -> list[str]:
    return [finding.identity.removeprefix("specification/") for finding in rig.suite.findings]


def test_status(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery.Version, "check", lambda *_: Refused(Status.BUSY, "why not"))
    spec.run(VERSION)
    assert identities(spec) == ["status/discovery.version"]


def test_result(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery.Limits, "check", lambda *_: Effect((), 77))
    spec.run("discovery.limits(dom1, what=1)")
    assert identities(spec) == ["result/discovery.limits"]


def test_effect_left_out(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.WriteConsole, "apply", lambda *_: None)
    spec.run("console.write(dom1, text=0xffff880000040000, length=8)")
    assert identities(spec) == ["console/console.write"]


def test_refused_call_with_an_effect(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping that dies on the way leaves its handle behind."""

    def leak(self: Any, hv: Any, caller: Any, vcpu: Any) -> Refused:
        caller.handles[5] = Mapping(1, 0, True, False, 0x1F0, 0, 0x50, 1)
        return Refused(Status.INVALID, "flags")

    monkeypatch.setattr(mappings.Map, "check", leak)
    spec.run("grant.map(dom2, granter=1, ref=0, gfn=0x1f0, flags=0)")
    assert identities(spec) == ["handle/grant.map"]


def test_one_effect_too_many(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = dma_map.UnmapDma.apply

    def more(self: Any, hv: Any) -> None:
        apply(self, hv)
        hv.domains[self.domain].dma.unmap(self.page + 1)

    spec.run("device.dma_map(dom1, iova=0, gfn=0x40, count=3, rights=R)")
    monkeypatch.setattr(dma_map.UnmapDma, "apply", more)
    spec.run("device.dma_unmap(dom1, iova=0, count=1)")
    assert sorted(identities(spec)) == ["frame/device.dma_unmap", "iova/device.dma_unmap"]


def test_fetch_that_the_contract_does_not_know(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check = discovery.Version.check

    def curious(self: Any, hv: Any, caller: Any, vcpu: Any) -> Any:
        guest_access.copy_from_guest(hv, vcpu, 0xFFFF_8800_0004_0000, 8)
        return check(self, hv, caller, vcpu)

    monkeypatch.setattr(discovery.Version, "check", curious)
    spec.run(VERSION)
    assert identities(spec) == ["fetched/discovery.version"]


def test_write_that_the_contract_does_not_know(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put = exchange.PutGuest.apply
    monkeypatch.setattr(exchange.PutGuest, "apply", lambda self, hv: put(self._replace(data=b"\1" * 8), hv))
    spec.run("memory.exchange(dom1, gfns=[0x50], out=0xffff880000041000, count=1)")
    assert identities(spec) == ["written/memory.exchange"]


def test_frame_that_is_in_use(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that dom2 has is given to dom1 as well."""
    frame = spec.frame(2, 0x50)
    monkeypatch.setattr(spec.hv.allocator.__class__, "choose", lambda *_, **__: (frame,))

    def take(allocator: Any, hfn: int, owner: int, state: FrameState) -> None:
        allocator.frames.assign(hfn, owner, state)
        allocator.host.observer.frame_allocated(hfn, owner, state)

    monkeypatch.setattr(spec.hv.allocator.__class__, "take", take)
    spec.run("memory.populate(dom1, first=0x1f0, count=1)")
    assert identities(spec) == ["fresh/memory.populate"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("entitlement", "device.deassign(dom1, device=0)"),
        ("entitlement", "sysret(dom1)\nvmcall(dom1, rax=0x12, rdi=0)"),
    ],
)
def test_call_that_dispatch_should_refuse(spec: Any, monkeypatch: pytest.MonkeyPatch, name: str, line: str) -> None:
    monkeypatch.setattr(dispatch, name, lambda *_: None)
    spec.run(line)
    assert [rule.partition("/")[0] for rule in identities(spec)] == ["dispatch"]


def test_call_that_dispatch_should_not_refuse(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "fetch_arguments", lambda *_: Refused(Status.INVALID, "header"))
    spec.run(VERSION)
    assert identities(spec) == ["dispatch/discovery.version"]


def test_unknown_number_that_is_called(spec: Any) -> None:
    spec.run("vmcall(dom1, rax=0x1234, rdi=0)")
    assert identities(spec) == []


def test_arguments_decoded_wrongly(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hypervisor's decoder is not asked: the struct is decoded a second time."""

    def wrong(declaration: Any, version: int, body: bytes) -> Any:
        return decode_body(declaration, version, b"\1" + body[1:])

    monkeypatch.setattr(dispatch, "decode_body", wrong)
    spec.run("discovery.limits(dom1, what=2)")
    assert identities(spec) == ["args/discovery.limits", "result/discovery.limits"]


def test_entry_that_does_not_run(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multicall, "run_entry", lambda *_: (Status.OK, 0))
    spec.run("multicall(dom1, count=1)", VERSION)
    assert identities(spec) == ["nested/multicall"]


def test_calls_within_a_call_are_judged_one_by_one(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery.Limits, "check", lambda *_: Effect((), 77))
    spec.run("multicall(dom1, count=2)", "discovery.limits(dom1, what=1)", VERSION)
    assert identities(spec) == ["result/discovery.limits"]


def test_wrong_virtual_cpu_is_woken(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec.run("r0 = event.alloc(dom1, remote=2)", "event.bind(dom2, remote=1, port=r0)", "sched.block(dom2.0)")
    scheduler = spec.hv.scheduler
    monkeypatch.setattr(scheduler.__class__, "event", lambda *_: None)
    spec.run("event.send(dom1, port=0)")
    assert identities(spec) == ["vcpu/event.send"]


def test_pending_bit_of_the_wrong_port(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec.run("r0 = event.alloc(dom1, remote=2)", "event.bind(dom2, remote=1, port=r0)")
    monkeypatch.setattr(event.Send, "check", lambda *_: NOTHING)
    spec.run("event.send(dom1, port=0)")
    assert identities(spec) == ["port/event.send"]


def test_device_for_another_domain(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assign = assignment.AssignDevice.apply
    monkeypatch.setattr(assignment.AssignDevice, "apply", lambda self, hv: assign(self._replace(domain=0), hv))
    spec.run("device.assign(dom0, device=1, to=2)")
    assert identities(spec) == ["device/device.assign"]


def test_halt_in_spite_of_an_event(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_channels, "any_pending", lambda *_: True)
    spec.run("hlt(dom1)")
    assert identities(spec) == ["change/hlt"]


def test_virtual_cpu_that_wakes_by_itself(spec: Any) -> None:
    spec.run("sched.block(dom1.0)")
    spec.machine.vcpus[1].runnable = 0
    spec.run("cpuid(dom1.1, leaf=0)")
    assert identities(spec) == ["change/cpuid"]


def test_poll_that_runs_out(spec: Any) -> None:
    trace = spec.run(
        "r0 = event.alloc(dom1, remote=2)",
        "sched.poll(dom1.0, ports=[r0], count=1, timeout=100)",
        "sched.yield(dom1.1)",
        "discovery.version(dom1.0, want=2)",
        "sched.poll(dom1.0, ports=[r0], count=1, timeout=100)",
        "sched.yield(dom1.1)",
        "cpuid(dom1.1, leaf=0)",
        "hlt(dom1.0)",
    )
    assert all(outcome.status == 0 for outcome in trace.outcomes)
    spec.suite.audit()
    assert identities(spec) == []


POLL = (
    "r0 = event.alloc(dom1, remote=2)",
    "sched.poll(dom1.0, ports=[r0], count=1, timeout=5000)",
    "sched.yield(dom1.1)",
)


@pytest.mark.parametrize("exit_op", ["cpuid(dom1.1, leaf=0)", "discovery.version(dom2, want=2)"])
def test_poll_that_goes_on_for_ever(spec: Any, monkeypatch: pytest.MonkeyPatch, exit_op: str) -> None:
    monkeypatch.setattr(scheduler.Scheduler, "expire", lambda *_: None)
    spec.run(*POLL, exit_op)
    assert identities(spec) == [f"change/{exit_op.partition('(')[0]}"]


def test_poll_that_the_scheduler_has_forgotten(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    poll = scheduler.Scheduler.poll

    def forgetful(self: Any, *rest: Any) -> None:
        poll(self, *rest)
        self.polls.clear()

    monkeypatch.setattr(scheduler.Scheduler, "poll", forgetful)
    spec.run(*POLL, "cpuid(dom1.1, leaf=0)")
    assert identities(spec) == ["change/cpuid"]


COPY = "grant.copy(dom1, from=0x40, to=0x41, from_offset=0, to_offset=8, length=16)"
SUBMIT = "device.dma_submit(dom1, device=0, from=0x1000, to=0x2000, length=8)"


@pytest.mark.parametrize("change", [{"dest": 8}, {"source": 8}, {"length": -8}, {"dest": 1 << 12}])
def test_copy_of_other_bytes_than_were_asked_for(
    spec: Any, monkeypatch: pytest.MonkeyPatch, change: dict[str, int]
) -> None:
    """All of them are within frames that the caller may use."""
    apply = copy.CopyBytes.apply

    def displaced(self: Any, hv: Any) -> None:
        apply(self._replace(**{name: getattr(self, name) + by for name, by in change.items()}), hv)

    monkeypatch.setattr(copy.CopyBytes, "apply", displaced)
    spec.run(COPY)
    assert identities(spec) == ["moved/grant.copy"]


def test_copy_that_garbles(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec.run("store(dom1, gva=0xffff880000040000, size=8, value=0x1234)", COPY)
    assert identities(spec) == []
    copy = PhysicalMemory.copy
    monkeypatch.setattr(PhysicalMemory, "copy", lambda self, dest, source, n: copy(self, dest + 8, source, n))
    spec.run(COPY)
    assert identities(spec) == ["moved/grant.copy"]


@pytest.mark.parametrize("change", [{"source": 8}, {"target": 0x800}, {"length": 8}])
def test_dma_of_other_bytes_than_were_validated(
    spec: Any, monkeypatch: pytest.MonkeyPatch, change: dict[str, int]
) -> None:
    apply = dma_submit.SubmitDma.apply

    def displaced(self: Any, hv: Any) -> None:
        apply(self._replace(**{name: getattr(self, name) + by for name, by in change.items()}), hv)

    mapped = "device.dma_map(dom1, iova=0x1000, gfn=0x40, count=2, rights=R|W)"
    spec.run(mapped, SUBMIT)
    assert identities(spec) == []
    monkeypatch.setattr(dma_submit.SubmitDma, "apply", displaced)
    spec.run(SUBMIT)
    assert identities(spec) == ["moved/device.dma_submit"]


def test_change_that_no_call_made(spec: Any) -> None:
    """For example, a guest's store into its own EPT: one finding, whatever the number of cells."""
    frame = spec.frame(1, 0x50)
    spec.poke(spec.free_entry(1, 0x1F0), frame << PAGE_SHIFT | 0x37)
    assert identities(spec) == ["change/test"]


def test_a_fault_does_not_echo(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification adopts the machine's state: later calls are judged by that."""
    with monkeypatch.context() as patch:
        patch.setattr(reservation.Populate, "check", lambda *_: NOTHING)
        spec.run("memory.populate(dom1, first=0x1f0, count=1)")
    assert identities(spec) == ["result/memory.populate"]
    trace = spec.run("memory.decrease(dom1, first=0x1f0, count=1)", "memory.populate(dom1, first=0x1f0, count=1)")
    assert [outcome.status for outcome in trace.outcomes] == [Status.NOT_PRESENT, 0]
    spec.suite.audit()
    assert identities(spec) == ["result/memory.populate"]


def test_a_call_that_the_contract_does_not_know_yet(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: rule for name, rule in SPEC.items() if name != "event.alloc"}
    monkeypatch.setattr(specification, "SPEC", known)
    spec.run("r0 = event.alloc(dom1, remote=2)", "event.bind(dom2, remote=1, port=r0)")
    spec.suite.audit()
    assert identities(spec) == []


def test_a_state_that_makes_no_sense(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One end of a pair is adopted without the other: the specification cannot close it, and reports that."""
    monkeypatch.setattr(event_channels, "detach", lambda *_: None)
    spec.run(
        "r0 = event.alloc(dom1, remote=2)",
        "event.bind(dom2, remote=1, port=r0)",
        "event.close(dom1, port=0)",
        "event.close(dom2, port=0)",
    )
    assert identities(spec) == ["port/event.close", "state/event.close"]


def test_privilege_that_a_call_gives(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = discovery.SetVersion.apply

    def apply(self: Any, hv: Any) -> None:
        original(self, hv)
        hv.domains[self.domain].privileged = True

    monkeypatch.setattr(discovery.SetVersion, "apply", apply)
    spec.run(VERSION)
    assert identities(spec) == ["privilege/discovery.version"]


@pytest.mark.parametrize("status", [Status.NO_CALL, Status.FAULT])
def test_entry_of_a_batch_that_is_refused_without_a_call(
    spec: Any, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    monkeypatch.setattr(multicall, "run_entry", lambda *_: (status, 0))
    spec.run("multicall(dom1, count=1)\n  memory.populate(dom1, first=0x200, count=1, order=0)")
    assert identities(spec) == ["nested/multicall"]
