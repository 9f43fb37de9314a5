"""Yield, block, kick and poll."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.abi.boot import HYPERVISOR_HOLE_START
from hvfuzz.abi.limits import TIME_SLICE
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
LONG = 1 << 40


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1."""
    return hv.domains[1].vcpus[0]


@pytest.fixture
def loop(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> tuple[int, int]:
    """A pair of ports of dom1 with itself: what is sent through the second is pending at the first."""
    _, port = guest_call(hv, vcpu, "event.alloc", remote=1)
    _, peer = guest_call(hv, vcpu, "event.bind", remote=1, port=port)
    return port, peer


def test_yield_lets_a_slice_pass(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    before = hv.machine.clock.cycles
    assert guest_call(hv, vcpu, "sched.yield") == (Status.OK, 0)
    assert TIME_SLICE < hv.machine.clock.cycles - before < 2 * TIME_SLICE


def test_block_waits_unless_an_event_is_pending(
    hv: Hypervisor, vcpu: VCpu, loop: tuple[int, int], guest_call: GuestCall
) -> None:
    sibling = hv.domains[1].vcpus[1]
    assert guest_call(hv, vcpu, "sched.block") == (Status.OK, 0)
    assert vcpu.runnable == RunState.BLOCKED
    assert guest_call(hv, sibling, "event.send", port=loop[1]) == (Status.OK, 0)
    assert vcpu.runnable == RunState.RUNNABLE
    assert guest_call(hv, vcpu, "sched.block") == (Status.AGAIN, 0)
    assert vcpu.runnable == RunState.RUNNABLE


def test_kick_wakes_whatever_the_vcpu_waits_for(
    hv: Hypervisor, vcpu: VCpu, loop: tuple[int, int], guest_call: GuestCall
) -> None:
    sibling = hv.domains[1].vcpus[1]

    def poll() -> None:
        guest_call(hv, sibling, "sched.poll", ports=loop, count=2, timeout=LONG)

    for wait in (sibling.hlt, poll, lambda: guest_call(hv, sibling, "sched.block")):
        wait()
        assert sibling.runnable != RunState.RUNNABLE
        assert guest_call(hv, vcpu, "sched.kick", vcpu=1) == (Status.OK, 1)
        assert sibling.runnable == RunState.RUNNABLE
        assert guest_call(hv, vcpu, "sched.kick", vcpu=1) == (Status.OK, 0)
    assert hv.scheduler.polls == {}
    for stranger in (2, 0xFFFF_FFFF):
        assert guest_call(hv, vcpu, "sched.kick", vcpu=stranger) == (Status.INVALID, 0)


def test_poll_looks_before_it_waits(hv: Hypervisor, vcpu: VCpu, loop: tuple[int, int], guest_call: GuestCall) -> None:
    port, peer = loop
    assert guest_call(hv, vcpu, "sched.poll", ports=(peer, port), count=2, timeout=0) == (Status.AGAIN, 0)
    guest_call(hv, vcpu, "event.send", port=peer)
    for timeout in (0, LONG):
        assert guest_call(hv, vcpu, "sched.poll", ports=(peer, port), count=2, timeout=timeout) == (Status.OK, 2)
        assert vcpu.runnable == RunState.RUNNABLE


@pytest.mark.parametrize(
    ("listed", "count", "status"),
    [
        ((), 0, Status.INVALID),
        ((0,) * 17, 17, Status.INVALID),
        (HYPERVISOR_HOLE_START, 1, Status.FAULT),
        ((0, 2), 2, Status.NO_PORT),
        ((0, 32), 2, Status.NO_PORT),
        ((0, 128), 2, Status.NO_PORT),
        ((0, 0xFFFF_FFFF), 2, Status.NO_PORT),
        ((0,) * 16, 16, Status.AGAIN),
    ],
)
def test_what_cannot_be_polled(
    hv: Hypervisor,
    vcpu: VCpu,
    loop: tuple[int, int],
    guest_call: GuestCall,
    listed: tuple[int, ...] | int,
    count: int,
    status: Status,
) -> None:
    assert guest_call(hv, vcpu, "sched.poll", ports=listed, count=count, timeout=0) == (status, 0)
    assert vcpu.runnable == RunState.RUNNABLE


def test_a_port_without_a_bucket_is_refused_even_if_another_is_pending(
    hv: Hypervisor, vcpu: VCpu, loop: tuple[int, int], guest_call: GuestCall
) -> None:
    guest_call(hv, vcpu, "event.send", port=loop[1])
    assert guest_call(hv, vcpu, "sched.poll", ports=(loop[0], 99), count=2, timeout=0)[0] is Status.NO_PORT


def test_a_poll_ends_at_its_deadline(hv: Hypervisor, vcpu: VCpu, loop: tuple[int, int], guest_call: GuestCall) -> None:
    sibling = hv.domains[1].vcpus[1]
    guest_call(hv, vcpu, "sched.poll", ports=loop, count=2, timeout=TIME_SLICE)
    guest_call(hv, sibling, "discovery.limits")
    assert vcpu.runnable == RunState.POLLING, "the time has not come"
    guest_call(hv, sibling, "sched.yield")
    guest_call(hv, sibling, "discovery.limits")
    assert vcpu.runnable == RunState.RUNNABLE
    assert hv.scheduler.polls == {}


def test_a_deadline_beyond_all_time_does_not_come(
    hv: Hypervisor, vcpu: VCpu, loop: tuple[int, int], guest_call: GuestCall
) -> None:
    guest_call(hv, vcpu, "sched.poll", ports=loop, count=2, timeout=(1 << 64) - 1)
    hv.machine.clock.cycles += LONG
    guest_call(hv, hv.domains[1].vcpus[1], "discovery.limits")
    assert vcpu.runnable == RunState.POLLING


def test_the_array_is_fetched_once(hv: Hypervisor, vcpu: VCpu, loop: tuple[int, int], guest_call: GuestCall) -> None:
    hv.machine.fetches.reset()
    guest_call(hv, vcpu, "sched.poll", ports=loop * 8, count=16, timeout=0)
    assert [size for *_, size in hv.machine.fetches.log] == [8, 24, 64]
