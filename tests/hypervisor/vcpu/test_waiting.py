"""What ends each way of waiting: every pair of the table "Waiting" of ABI.md, against the hypervisor."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import pytest

from hvfuzz.abi.boot import DIRECT_MAP, MMIO_BASE, MMIO_SIZE, TIMER
from hvfuzz.abi.limits import CLOCK_READS, CLOCK_WINDOW
from hvfuzz.abi.manual.timekeeping import WAITS
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.addresses import PAGE_SIZE, Gva
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
TICK: Final = 16384
LONG: Final = 1 << 40
PORT: Final = 0
"""A port of dom1, whose peer dom2 has as its port 0. Port 1 is another one, with peer 1."""
MSR: Final = 0x800
ENTRIES: Final = 0x40
"""A page of the guest for the entries of a multicall, and their structs."""
ENTRIES_AT: Final = DIRECT_MAP + ENTRIES * PAGE_SIZE
PAGE: Final = DIRECT_MAP + MMIO_BASE + TIMER * MMIO_SIZE


class Pair:
    """dom1 whose vCPU 0 waits, its vCPU 1, and dom2 that shares two pairs of ports with it."""

    def __init__(self, hv: Hypervisor, call: GuestCall) -> None:
        self.hv = hv
        self.waiter, self.sibling = hv.domains[1].vcpus
        self.stranger = hv.domains[2].vcpus[0]
        self._call = call
        for port in (0, 1):
            assert self.call(self.waiter, "event.alloc", remote=2) == port
            assert self.call(self.stranger, "event.bind", remote=1, port=port) == port
        self.waiter.wrmsr(MSR + 0x0F, 0x1FF)
        self.waiter.sti()
        hv.machine.clock.cycles = 64 * TICK

    def call(self, vcpu: VCpu, name: str, /, **fields: int | tuple[int, ...]) -> int:
        """Make a call that succeeds; its result."""
        status, result = self.raw(vcpu, name, **fields)
        assert status is Status.OK
        return result

    def raw(self, vcpu: VCpu, name: str, /, **fields: int | tuple[int, ...]) -> tuple[Status, int]:
        """Make a call; status and result."""
        return self._call(self.hv, vcpu, name, **fields)

    def together(self, vcpu: VCpu, *calls: tuple[str, tuple[int, ...]]) -> list[int]:
        """Make calls in one exit; their results."""
        domain, memory = self.hv.domains[vcpu.domain], self.hv.machine.memory
        for number, (name, values) in enumerate(calls):
            declaration = ABI.by_name[name]
            at = ENTRIES_AT + 0x800 + 0x80 * number
            memory.write(guest_address(domain, ENTRIES, at % PAGE_SIZE), declaration.layouts[2].encode(values))
            memory.write(guest_address(domain, ENTRIES, 32 * number), struct.pack("<4Q", declaration.number, at, 0, 0))
        self.call(vcpu, "multicall", entries=ENTRIES_AT, count=len(calls))
        return [memory.words[guest_address(domain, ENTRIES, 32 * n + 24) >> 3] for n in range(len(calls))]

    def shut_down(self) -> None:
        """A triple fault of the waiter."""
        self.hv.scheduler.stop(self.waiter)

    def pass_time(self) -> None:
        """Let some ticks pass, and a VM exit begin after them."""
        self.hv.machine.clock.cycles += 5 * TICK
        self.stranger.cpuid(0)

    def set_timer(self, port: int) -> None:
        """Have the domain's timer raise an event on `port` with the next tick."""
        self.sibling.store(Gva(PAGE + 0x100), 8, port)
        self.sibling.store(Gva(PAGE + 0x110), 8, 1)

    def set_apic_timer(self) -> None:
        """Have the waiter's APIC timer interrupt it. To be called before it waits."""
        self.waiter.wrmsr(MSR + 0x32, 0x51)
        self.waiter.wrmsr(MSR + 0x38, 1)


WAYS_TO_WAIT: Final[dict[str, tuple[int, Callable[[Pair], object]]]] = {
    "sched.block": (RunState.BLOCKED, lambda pair: pair.call(pair.waiter, "sched.block")),
    "sched.poll": (
        RunState.POLLING,
        lambda pair: pair.call(pair.waiter, "sched.poll", ports=(PORT,), count=1, timeout=LONG),
    ),
    "sched.poll, short": (
        RunState.POLLING,
        lambda pair: pair.call(pair.waiter, "sched.poll", ports=(PORT,), count=1, timeout=1),
    ),
    "HLT": (RunState.HALTED, lambda pair: pair.waiter.hlt()),
    "a triple fault": (RunState.STOPPED, lambda pair: pair.shut_down()),
}
ALL_WAITS: Final = frozenset(WAYS_TO_WAIT)
STOPPED: Final = "a triple fault"
SHORT: Final = "sched.poll, short"
POLLS: Final = frozenset({"sched.poll", SHORT})
ANY_EVENT: Final = frozenset({"sched.block", "HLT"})


def timer(port: int) -> Callable[[Pair], None]:
    """The event of the domain's own timer, on `port`."""

    def wake(pair: Pair) -> None:
        pair.set_timer(port)
        pair.pass_time()

    return wake


WAYS_TO_WAKE: Final[dict[str, tuple[Callable[[Pair], object], frozenset[str]]]] = {
    "event.send": (lambda pair: pair.call(pair.stranger, "event.send", port=PORT), ANY_EVENT | POLLS),
    "event.send, another port": (lambda pair: pair.call(pair.stranger, "event.send", port=1), ANY_EVENT),
    "timer": (timer(PORT), ANY_EVENT | POLLS),
    "timer, another port": (timer(1), ANY_EVENT | {SHORT}),
    "timer, no such port": (timer(9), frozenset({SHORT})),
    "event.close": (lambda pair: pair.call(pair.sibling, "event.close", port=PORT), POLLS),
    "event.close, another port": (lambda pair: pair.call(pair.sibling, "event.close", port=1), frozenset()),
    "event.close by the peer": (lambda pair: pair.call(pair.stranger, "event.close", port=PORT), frozenset()),
    "time-out": (lambda pair: pair.pass_time(), frozenset({SHORT})),
    "IPI": (lambda pair: pair.sibling.wrmsr(MSR + 0x30, 0x41), frozenset({"HLT"})),
    "IPI below the priority": (lambda pair: pair.sibling.wrmsr(MSR + 0x30, 0x11), frozenset()),
    "sched.kick": (lambda pair: pair.call(pair.sibling, "sched.kick", vcpu=0), ALL_WAITS - {STOPPED}),
    "nothing": (lambda pair: pair.stranger.cpuid(0), frozenset()),
}


@pytest.fixture
def pair(hv: Hypervisor, guest_call: GuestCall) -> Pair:
    return Pair(hv, guest_call)


@pytest.mark.parametrize("wait", WAYS_TO_WAIT)
@pytest.mark.parametrize("wake", WAYS_TO_WAKE)
def test_each_pair(pair: Pair, wait: str, wake: str) -> None:
    state, begin = WAYS_TO_WAIT[wait]
    act, ends = WAYS_TO_WAKE[wake]
    pair.waiter.wrmsr(MSR + 0x08, 0x10)
    begin(pair)
    assert pair.waiter.runnable == state
    act(pair)
    assert pair.waiter.runnable == (RunState.RUNNABLE if wait in ends else state)


@pytest.mark.parametrize("wait", WAYS_TO_WAIT)
def test_an_apic_timer_ends_halt_alone(pair: Pair, wait: str) -> None:
    state, begin = WAYS_TO_WAIT[wait]
    pair.set_apic_timer()
    begin(pair)
    pair.pass_time()
    assert pair.waiter.runnable == (RunState.RUNNABLE if wait in ("HLT", SHORT) else state)


def test_a_wait_for_the_window_ends_with_it(pair: Pair) -> None:
    for _ in range(CLOCK_READS):
        pair.waiter.rdtsc()
    assert pair.waiter.rdtsc() % CLOCK_WINDOW == 0
    assert pair.waiter.runnable == RunState.RUNNABLE
    assert pair.hv.machine.clock.cycles % CLOCK_WINDOW == Cost.VMENTRY


def test_one_event_ends_one_wait(pair: Pair) -> None:
    pair.waiter.hlt()
    pair.sibling.hlt()
    pair.call(pair.stranger, "event.send", port=1)
    assert (pair.waiter.runnable, pair.sibling.runnable) == (RunState.RUNNABLE, RunState.HALTED)
    pair.call(pair.stranger, "event.send", port=1)
    assert pair.sibling.runnable == RunState.RUNNABLE


def test_the_table_of_the_manual_has_the_same_ways() -> None:
    waits = {row[0] for row in WAITS[1:]}
    assert {name.partition(",")[0] for name in WAYS_TO_WAIT} | {"a clock read after the last of the window"} == {
        wait.strip("`") for wait in waits
    }
    columns = {
        "an event": {"event.send", "event.send, another port", "timer", "timer, another port", "timer, no such port"},
        "`event.close` of a port": {name for name in WAYS_TO_WAKE if name.startswith("event.close")},
        "time-out": {"time-out"},
        "an interrupt": {name for name in WAYS_TO_WAKE if name.startswith("IPI")},
        "`sched.kick`": {"sched.kick"},
    }
    assert WAITS[0][1:] == tuple(columns)
    for wait in ("sched.block", "sched.poll", "HLT", STOPPED):
        same = POLLS if wait in POLLS else {wait}
        ends = [any(WAYS_TO_WAKE[name][1] & same for name in names) for names in columns.values()]
        (row,) = (row for row in WAITS if row[0].strip("`") == wait)
        assert ends == [cell != "-" for cell in row[1:]]


@pytest.mark.parametrize("wait", WAYS_TO_WAIT)
def test_an_error_interrupt_ends_halt_alone(pair: Pair, wait: str) -> None:
    """The APIC's error entry, on the waiter's timer interrupt of an illegal vector."""
    state, begin = WAYS_TO_WAIT[wait]
    pair.waiter.wrmsr(MSR + 0x37, 0x61)
    pair.waiter.wrmsr(MSR + 0x32, 5)
    pair.waiter.wrmsr(MSR + 0x38, 1)
    begin(pair)
    assert pair.waiter.runnable == state
    pair.pass_time()
    assert pair.waiter.runnable == (RunState.RUNNABLE if wait in ("HLT", SHORT) else state)


def test_no_vcpu_begins_to_wait_for_a_pending_event(pair: Pair) -> None:
    pair.call(pair.stranger, "event.send", port=1)
    assert pair.raw(pair.waiter, "sched.block") == (Status.AGAIN, 0)
    assert pair.call(pair.waiter, "sched.poll", ports=(PORT, 1), count=2, timeout=LONG) == 2
    pair.waiter.hlt()
    assert pair.waiter.runnable == RunState.RUNNABLE
    pair.call(pair.waiter, "sched.poll", ports=(PORT,), count=1, timeout=LONG)
    assert pair.waiter.runnable == RunState.POLLING, "that port is not pending"


def test_no_vcpu_halts_that_can_take_an_interrupt(pair: Pair) -> None:
    pair.waiter.wrmsr(MSR + 0x3F, 0x41)
    pair.waiter.hlt()
    assert pair.waiter.runnable == RunState.RUNNABLE
    pair.waiter.cli()
    pair.waiter.hlt()
    assert pair.waiter.runnable == RunState.HALTED


def test_an_event_passes_over_a_vcpu_that_polls_another_port(pair: Pair) -> None:
    pair.call(pair.waiter, "sched.poll", ports=(PORT,), count=1, timeout=LONG)
    pair.sibling.hlt()
    pair.call(pair.stranger, "event.send", port=1)
    assert (pair.waiter.runnable, pair.sibling.runnable) == (RunState.POLLING, RunState.RUNNABLE)


def test_no_deadline_is_met_within_an_exit(pair: Pair) -> None:
    pair.call(pair.waiter, "sched.poll", ports=(PORT,), count=1, timeout=1)
    assert pair.together(pair.sibling, ("sched.yield", ()), ("sched.yield", ()), ("sched.kick", (0,)))[2] == 1
    pair.call(pair.waiter, "sched.poll", ports=(PORT,), count=1, timeout=1)
    pair.together(pair.sibling, ("sched.yield", ()), ("sched.yield", ()))
    assert pair.together(pair.sibling, ("sched.kick", (0,))) == [0], "the next exit ends it"


def test_the_last_wait_of_a_multicall_decides(pair: Pair) -> None:
    pair.hv.machine.memory.write(guest_address(pair.hv.domains[1], ENTRIES, 0x700), PORT.to_bytes(4, "little"))
    poll = ("sched.poll", (ENTRIES_AT + 0x700, 1, LONG))
    block: tuple[str, tuple[int, ...]] = ("sched.block", ())
    for calls, state in (((block, poll), RunState.POLLING), ((poll, block), RunState.BLOCKED)):
        pair.together(pair.waiter, *calls)
        assert pair.waiter.runnable == state
        pair.call(pair.sibling, "sched.kick", vcpu=0)
        assert pair.together(pair.waiter, *calls, ("sched.kick", (0,)))[2] == 1
        assert pair.waiter.runnable == RunState.RUNNABLE, "what ends a wait ends it between the calls"
