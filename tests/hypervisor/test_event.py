"""Event channels: ports, pairs, buckets, and the vCPUs that wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.abi.limits import SELF
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.domains import Port, PortState
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
Audit = Callable[[Hypervisor], None]


@pytest.fixture
def one(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1."""
    return hv.domains[1].vcpus[0]


@pytest.fixture
def two(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom2."""
    return hv.domains[2].vcpus[0]


def connect(hv: Hypervisor, guest_call: GuestCall, first: VCpu, second: VCpu) -> tuple[int, int]:
    """A pair of ports: that of `first`'s domain, that of `second`'s."""
    status, port = guest_call(hv, first, "event.alloc", remote=second.domain)
    assert status is Status.OK
    status, peer = guest_call(hv, second, "event.bind", remote=first.domain, port=port)
    assert status is Status.OK
    return port, peer


def test_a_pair_points_both_ways(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall, audit: Audit) -> None:
    guest_call(hv, two, "event.alloc", remote=0)
    port, peer = connect(hv, guest_call, one, two)
    assert (port, peer) == (0, 1)
    assert event_channels.lookup(hv.domains[1], 0) == Port(PortState.CONNECTED, 2, 1)
    assert event_channels.lookup(hv.domains[2], 1) == Port(PortState.CONNECTED, 1, 0)
    audit(hv)


def test_a_domain_may_be_its_own_peer(hv: Hypervisor, one: VCpu, guest_call: GuestCall) -> None:
    assert guest_call(hv, one, "event.alloc", remote=SELF) == (Status.OK, 0)
    assert guest_call(hv, one, "event.bind", remote=SELF, port=0) == (Status.OK, 1)
    assert guest_call(hv, one, "event.send", port=1) == (Status.OK, 0)
    assert event_channels.lookup(hv.domains[1], 0) == Port(PortState.CONNECTED, 1, 1, pending=True)
    assert guest_call(hv, one, "event.close", port=0) == (Status.OK, 0)
    assert event_channels.lookup(hv.domains[1], 1) == Port(PortState.UNBOUND, 1)


def test_only_whom_a_port_waits_for_binds_it(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    control = hv.domains[0].vcpus[0]
    guest_call(hv, one, "event.alloc", remote=2)
    refused = (Status.NO_PORT, 0)
    assert guest_call(hv, control, "event.bind", remote=1, port=0) == refused
    for port in (1, 32, 127, 128, 0xFFFF_FFFF):
        assert guest_call(hv, two, "event.bind", remote=1, port=port) == refused
    assert guest_call(hv, two, "event.bind", remote=3, port=0) == (Status.NO_DOMAIN, 0)
    assert guest_call(hv, two, "event.bind", remote=1, port=0) == (Status.OK, 0)
    assert guest_call(hv, two, "event.bind", remote=1, port=0) == refused
    assert guest_call(hv, two, "event.alloc", remote=9) == (Status.NO_DOMAIN, 0)


def test_events_are_sent_to_the_peer(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    port, peer = connect(hv, guest_call, one, two)
    assert guest_call(hv, one, "event.send", port=port) == (Status.OK, 0)
    assert event_channels.lookup(hv.domains[2], peer) == Port(PortState.CONNECTED, 1, port, pending=True)
    assert not event_channels.any_pending(hv.domains[1])
    for unconnected in (port + 1, 64, 128, 0xFFFF_FFFF):
        assert guest_call(hv, one, "event.send", port=unconnected) == (Status.NO_PORT, 0)
    guest_call(hv, one, "event.alloc", remote=2)
    assert guest_call(hv, one, "event.send", port=port + 1) == (Status.NO_PORT, 0)


def test_a_closed_ports_peer_waits_again_and_keeps_its_event(
    hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall, audit: Audit
) -> None:
    port, peer = connect(hv, guest_call, one, two)
    guest_call(hv, one, "event.send", port=port)
    assert guest_call(hv, one, "event.close", port=port) == (Status.OK, 0)
    assert event_channels.lookup(hv.domains[1], port) is None
    assert event_channels.lookup(hv.domains[2], peer) == Port(PortState.UNBOUND, 1, pending=True)
    assert guest_call(hv, one, "event.close", port=port) == (Status.NO_PORT, 0)
    assert guest_call(hv, one, "event.bind", remote=2, port=peer) == (Status.OK, 0)
    assert event_channels.lookup(hv.domains[2], peer) == Port(PortState.CONNECTED, 1, 0, pending=True)
    audit(hv)


def test_buckets_come_and_go_with_their_ports(hv: Hypervisor, one: VCpu, guest_call: GuestCall, audit: Audit) -> None:
    free = hv.allocator.available
    assert [guest_call(hv, one, "event.alloc", remote=2)[1] for _ in range(33)] == list(range(33))
    assert hv.allocator.available == free - 2
    pages = [bucket.page for bucket in hv.domains[1].buckets if bucket]
    assert [hv.frames.frame(page).state for page in pages] == [FrameState.HYPERVISOR] * 2
    assert all(hv.machine.memory.load64(page << PAGE_SHIFT) for page in pages), "a heap page has a canary"
    assert guest_call(hv, one, "event.close", port=32) == (Status.OK, 0)
    assert hv.domains[1].buckets[1] is None
    assert hv.machine.memory.read(pages[1] << PAGE_SHIFT, PAGE_SIZE) == bytes(PAGE_SIZE)
    audit(hv)
    for port in reversed(range(32)):
        assert guest_call(hv, one, "event.close", port=port) == (Status.OK, 0)
    assert hv.allocator.available == free
    assert guest_call(hv, one, "event.close", port=0) == (Status.NO_PORT, 0)


def test_a_hole_is_filled_first(hv: Hypervisor, one: VCpu, guest_call: GuestCall) -> None:
    for _ in range(40):
        guest_call(hv, one, "event.alloc", remote=2)
    for port in (35, 7):
        guest_call(hv, one, "event.close", port=port)
    assert [guest_call(hv, one, "event.alloc", remote=2)[1] for _ in range(3)] == [7, 35, 40]


def test_ports_run_out(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    guest_call(hv, two, "event.alloc", remote=1)
    for port in range(128):
        assert guest_call(hv, one, "event.alloc", remote=2) == (Status.OK, port)
    assert guest_call(hv, one, "event.alloc", remote=2) == (Status.LIMIT, 0)
    assert guest_call(hv, one, "event.bind", remote=2, port=0) == (Status.LIMIT, 0)


def test_frames_run_out(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall, audit: Audit) -> None:
    guest_call(hv, two, "event.alloc", remote=1)
    while hv.allocator.available:
        hv.allocator.alloc_heap_page()
    assert guest_call(hv, one, "event.alloc", remote=2) == (Status.NO_MEMORY, 0)
    assert guest_call(hv, one, "event.bind", remote=2, port=0) == (Status.NO_MEMORY, 0)
    assert guest_call(hv, two, "event.alloc", remote=1) == (Status.OK, 1), "its bucket is there"
    audit(hv)


def test_an_event_wakes_the_lowest_vcpu_that_waits(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    port, _ = connect(hv, guest_call, one, two)
    first, second = hv.domains[2].vcpus
    for vcpu in (second, first):
        assert guest_call(hv, vcpu, "sched.block") == (Status.OK, 0)
    guest_call(hv, one, "event.send", port=port)
    assert (first.runnable, second.runnable) == (RunState.RUNNABLE, RunState.BLOCKED)
    guest_call(hv, one, "event.send", port=port)
    assert second.runnable == RunState.RUNNABLE


def test_an_event_ends_a_halt(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    port, _ = connect(hv, guest_call, one, two)
    two.hlt()
    assert two.runnable == RunState.HALTED
    guest_call(hv, one, "event.send", port=port)
    assert two.runnable == RunState.RUNNABLE


def test_a_poll_wakes_for_its_ports_only(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    port, peer = connect(hv, guest_call, one, two)
    other, _ = connect(hv, guest_call, one, two)
    sibling = hv.domains[2].vcpus[1]
    assert guest_call(hv, two, "sched.poll", ports=(peer, peer), count=2, timeout=1 << 40) == (Status.OK, 0)
    guest_call(hv, one, "event.send", port=other)
    assert two.runnable == RunState.POLLING
    guest_call(hv, sibling, "sched.yield")
    guest_call(hv, one, "event.send", port=port)
    assert two.runnable == RunState.RUNNABLE
    assert hv.scheduler.polls == {}


def test_polls_on_a_closed_port_go_on(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    _, peer = connect(hv, guest_call, one, two)
    sibling = hv.domains[2].vcpus[1]
    guest_call(hv, two, "sched.poll", ports=(peer,), count=1, timeout=1 << 40)
    assert two.runnable == RunState.POLLING
    assert guest_call(hv, sibling, "event.close", port=peer) == (Status.OK, 0)
    assert two.runnable == RunState.RUNNABLE


def test_a_bucket_that_is_not_there_cannot_be_followed(hv: Hypervisor) -> None:
    with pytest.raises(HostFault, match="null"):
        event_channels.port_entry(hv.domains[1], 40)
    assert event_channels.lookup(hv.domains[1], 40) is None
