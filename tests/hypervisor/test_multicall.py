"""Batches: each entry as if called alone, told to the guest as it goes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import DIRECT_MAP, HYPERVISOR_HOLE_START, PT_KERNEL_GFN
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
ENTRIES, STRUCTS = 0x40, 0x41
"""Pages of dom1 for the entries and for their structs."""
ENTRIES_AT = DIRECT_MAP + ENTRIES * PAGE_SIZE
STRUCTS_AT = DIRECT_MAP + STRUCTS * PAGE_SIZE


class Log(Observer):
    """Notes calls and preemption points."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: list[str] = []

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        self.seen.append(f"<{declaration.name if declaration else '?'}")

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Status, result: int, reason: str) -> None:
        self.seen.append(f"{status.name}>")

    def preemption_point(self) -> None:
        self.seen.append("|")


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1."""
    return hv.domains[1].vcpus[0]


Entry = tuple[str, tuple[int, ...]]


def batch(hv: Hypervisor, guest_call: GuestCall, vcpu: VCpu, *entries: Entry) -> tuple[Status, int]:
    """Make the calls (name, values) in one exit."""
    memory, domain = hv.machine.memory, hv.domains[vcpu.domain]
    for index, (name, values) in enumerate(entries):
        declaration = ABI.by_name[name]
        memory.write(guest_address(domain, STRUCTS, 0x80 * index), declaration.layouts[2].encode(values))
        words = struct.pack("<4Q", declaration.number, STRUCTS_AT + 0x80 * index, 0x5757, 0x5757)
        memory.write(guest_address(domain, ENTRIES, 32 * index), words)
    return guest_call(hv, vcpu, "multicall", entries=ENTRIES_AT, count=len(entries))


def outcome(hv: Hypervisor, index: int) -> tuple[Status | None, int]:
    """What the guest was told about entry `index`."""
    data = hv.machine.memory.read(guest_address(hv.domains[1], ENTRIES, 32 * index), 32)
    _, _, status, result = struct.unpack("<4Q", data)
    return Status.from_word(status), result


def test_entries_run_in_order_and_a_failure_stops_nothing(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    hv.observer = log = Log()
    entries: list[Entry] = [
        ("event.alloc", (1,)),
        ("event.bind", (1, 0)),
        ("event.bind", (1, 0)),
        ("event.send", (1,)),
        ("device.deassign", (0,)),
    ]
    assert batch(hv, guest_call, vcpu, *entries) == (Status.OK, 3)
    told = [outcome(hv, index) for index in range(5)]
    assert told == [
        (Status.OK, 0),
        (Status.OK, 1),
        (Status.NO_PORT, 0),
        (Status.OK, 0),
        (Status.NOT_PERMITTED, 0),
    ]
    assert " ".join(log.seen) == (
        "<multicall <event.alloc OK> | <event.bind OK> | <event.bind NO_PORT> | <event.send OK> | "
        "<device.deassign NOT_PERMITTED> OK>"
    )


def test_a_multicall_in_a_multicall_is_invalid(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    entries: list[Entry] = [("multicall", (ENTRIES_AT, 2)), ("event.alloc", (1,))]
    assert batch(hv, guest_call, vcpu, *entries) == (Status.OK, 1)
    assert [outcome(hv, 0), outcome(hv, 1)] == [(Status.INVALID, 0), (Status.OK, 0)]


@pytest.mark.parametrize(
    ("entries", "count", "status"),
    [
        (ENTRIES_AT, 0, Status.INVALID),
        (HYPERVISOR_HOLE_START, 17, Status.INVALID),
        (HYPERVISOR_HOLE_START, 1, Status.FAULT),
        (ENTRIES_AT + PAGE_SIZE - 16, 1, Status.FAULT),
    ],
)
def test_arrays_that_are_refused(
    hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall, entries: int, count: int, status: Status
) -> None:
    hv.machine.memory.store64(guest_address(hv.domains[1], PT_KERNEL_GFN, 8 * STRUCTS), 0)
    assert guest_call(hv, vcpu, "multicall", entries=entries, count=count) == (status, 0)


def test_an_array_must_be_writable_before_anything_runs(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    guest_call(hv, vcpu, "memory.protect", first=ENTRIES, count=1, rights=1)
    assert batch(hv, guest_call, vcpu, ("event.alloc", (1,))) == (Status.FAULT, 0)
    assert hv.domains[1].buckets[0] is None


def test_entries_that_unmap_their_own_array_end_the_batch(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    entries: list[Entry] = [
        ("event.alloc", (1,)),
        ("memory.protect", (ENTRIES, 1, 1)),
        ("event.alloc", (1,)),
    ]
    assert batch(hv, guest_call, vcpu, *entries) == (Status.FAULT, 0)
    assert outcome(hv, 0) == (Status.OK, 0)
    assert outcome(hv, 1) == (None, 0x5757)
    bucket = hv.domains[1].buckets[0]
    assert bucket is not None
    assert bucket.ports.count(None) == 31, "the third entry was not begun"


def test_entries_are_read_once(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    """A racing vCPU that rewrites the entries between two of them changes nothing."""
    page = guest_address(hv.domains[1], ENTRIES)
    yields = ABI.by_name["sched.yield"].number

    def rewrite() -> None:
        hv.machine.memory.store64(page + 32, yields)

    hv.machine.fetches.arm(4, rewrite)  # header, struct, entries; header and struct of the first entry
    assert batch(hv, guest_call, vcpu, ("event.alloc", (1,)), ("event.alloc", (1,))) == (Status.OK, 2)
    assert hv.machine.memory.load64(page + 32) == yields
    assert outcome(hv, 1) == (Status.OK, 1)


def test_long_entries_have_preemption_points_of_their_own(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    hv.observer = log = Log()
    entries: list[Entry] = [("memory.decrease", (0x80, 65)), ("sched.yield", ())]
    assert batch(hv, guest_call, vcpu, *entries) == (Status.OK, 2)
    assert log.seen.count("|") == 2


def test_a_poll_replaced_by_a_block_leaves_no_deadline(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    guest_call(hv, vcpu, "event.alloc", remote=1)
    ports = guest_address(hv.domains[1], STRUCTS, 0x800)
    hv.machine.memory.store(ports, 4, 0)
    entries: list[Entry] = [("sched.poll", (STRUCTS_AT + 0x800, 1, 1)), ("sched.block", ())]
    assert batch(hv, guest_call, vcpu, *entries) == (Status.OK, 2)
    assert vcpu.runnable == RunState.BLOCKED
    hv.machine.clock.cycles += 1 << 20
    guest_call(hv, hv.domains[1].vcpus[1], "sched.yield")
    assert vcpu.runnable == RunState.BLOCKED
