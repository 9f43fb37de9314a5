"""Every way by which a guest can tell time, with a probe each: none tells more than the budget of a window allows.

A probe looks as often as a guest can. What it sees may depend on the clock only by counted reads, which tell grains,
and by ticks. So two machines whose clocks round alike at each exit look the same, and a window has few values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from hvfuzz.abi.boot import DIRECT_MAP, MMIO_BASE, MMIO_SIZE, TIMER, WORLDS_BY_NAME
from hvfuzz.abi.limits import CLOCK_GRAIN, CLOCK_READS, CLOCK_TICK, CLOCK_VALUES, CLOCK_WINDOW
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.addresses import Gva
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.vcpu import VCpu

MSR: Final = 0x800
PAGE: Final = DIRECT_MAP + MMIO_BASE + TIMER * MMIO_SIZE
PORT, PERIOD, DELAY, EXPIRED = 0x100, 0x108, 0x110, 0x118
START: Final = 16 * CLOCK_WINDOW
READS: Final = frozenset({"time.clock_read", "RDTSC", "RDTSCP", "RDMSR of TSC"})
GuestCall = Callable[..., tuple[int, int]]


class Watch:
    """dom1 as it watches the time. Its vCPU 1 looks; its vCPU 0 waits, if the way needs that."""

    def __init__(self, hv: Hypervisor, call: GuestCall) -> None:
        self.hv = hv
        self._call = call
        self.waiter, self.looker = hv.domains[1].vcpus
        self.call("event.alloc", remote=1)
        self.call("event.bind", remote=1, port=0)
        for vcpu in (self.waiter, self.looker):
            vcpu.wrmsr(MSR + 0x0F, 0x1FF)
            vcpu.wrmsr(MSR + 0x3E, 0xB)
        self.expiries = 0
        self.reads = 0

    def call(self, name: str, vcpu: VCpu | None = None, /, **fields: int | tuple[int, ...]) -> tuple[int, int]:
        """(status, result) of a call."""
        status, result = self._call(self.hv, vcpu or self.looker, name, **fields)
        return int(status), result

    def register(self, offset: int, value: int | None = None) -> int:
        """Read or write a register of the timer."""
        if value is None:
            return self.looker.load(Gva(PAGE + offset), 8)
        self.looker.store(Gva(PAGE + offset), 8, value)
        return 0

    def arm(self, period: int = CLOCK_GRAIN) -> None:
        """Have the timer expire as often as a guest can ask for."""
        self.register(PERIOD, period)
        self.register(DELAY, 1)

    def poll(self) -> int:
        """Have the waiter poll for as short as it can, if it runs; the result of kicking it."""
        if self.waiter.runnable == RunState.RUNNABLE:
            self.call("sched.poll", self.waiter, ports=(0,), count=1, timeout=1)
            self.expiries += 1
        return self.expiries

    def one_shot(self) -> int:
        """Arm a one-shot timer whenever it has expired, which TIMER_DELAY tells."""
        if not self.register(DELAY):
            self.register(DELAY, 1)
            self.expiries += 1
        return self.expiries

    def renewed_event(self) -> int:
        """Replace the port of the timer whenever `sched.poll` finds it pending."""
        status, _ = self.call("sched.poll", ports=(0,), count=1, timeout=0)
        if not status:
            self.call("event.close", port=0)
            self.call("event.alloc", remote=1)
            self.expiries += 1
        return self.expiries

    def blocking(self) -> int:
        """Block, if no event is pending, and be kicked at once; renew the port otherwise."""
        status, _ = self.call("sched.block", self.waiter)
        if status:
            return self.renewed_event()
        self.call("sched.kick", vcpu=0)
        return self.expiries


def nothing(_watch: Watch) -> None:
    """Nothing to set up."""


def arm(watch: Watch) -> None:
    """The domain's timer, as often as a guest can ask for."""
    watch.arm()


def count(watch: Watch) -> None:
    """A count of the APIC that lasts."""
    watch.looker.wrmsr(MSR + 0x38, 0xFFFF_FFFF)


def periodic(watch: Watch) -> None:
    """A periodic count of the APIC with an odd period: what is left of a tick shows."""
    watch.looker.wrmsr(MSR + 0x32, 0x2_0051)
    watch.looker.wrmsr(MSR + 0x38, 4097)


WAYS: Final[dict[str, tuple[Callable[[Watch], None], Callable[[Watch], object]]]] = {
    "time.clock_read": (nothing, lambda watch: watch.call("time.clock_read")),
    "RDTSC": (nothing, lambda watch: watch.looker.rdtsc()),
    "RDTSCP": (nothing, lambda watch: watch.looker.rdtscp()),
    "RDMSR of TSC": (nothing, lambda watch: watch.looker.rdmsr(0x10)),
    "end of sched.poll": (nothing, lambda watch: watch.poll()),
    "TIMER_EXPIRED": (arm, lambda watch: watch.register(EXPIRED)),
    "TIMER_DELAY": (nothing, lambda watch: watch.one_shot()),
    "event, by sched.poll": (arm, lambda watch: watch.renewed_event()),
    "event, by sched.block": (arm, lambda watch: watch.blocking()),
    "current count": (count, lambda watch: watch.looker.rdmsr(MSR + 0x39)),
    "periodic current count": (periodic, lambda watch: watch.looker.rdmsr(MSR + 0x39)),
    "IRR": (periodic, lambda watch: watch.looker.rdmsr(MSR + 0x22)),
}
"""Name -> what the guest sets up, and one look."""


def watch_at(call: GuestCall, cycles: int, *ways: str) -> Watch:
    """A machine whose clock is at `cycles`, on which the ways are set up."""
    watch = Watch(boot(WORLDS_BY_NAME["pair"]), call)
    watch.hv.machine.clock.cycles = cycles
    for way in ways:
        WAYS[way][0](watch)
    return watch


def looks(watch: Watch, *ways: str) -> list[tuple[int, str, object]]:
    """(clock, way, what it shows) of looks that go on through two windows."""
    clock = watch.hv.machine.clock
    seen: list[tuple[int, str, object]] = []
    while clock.cycles < START + 2 * CLOCK_WINDOW:
        for way in ways:
            value = WAYS[way][1](watch)
            seen.append((clock.cycles, way, value))
    return seen


def values_in_a_window(seen: list[tuple[int, str, object]], way: str) -> int:
    """How often what a way shows differs from the look before, in the window that has the most such looks."""
    shown = [(at // CLOCK_WINDOW, value) for at, each, value in seen if each == way]
    changes = [window for (window, value), (_, before) in zip(shown[1:], shown, strict=False) if value != before]
    return max((changes.count(window) for window in set(changes)), default=0)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_keeps_to_the_budget(guest_call: GuestCall, way: str) -> None:
    watch = watch_at(guest_call, START, way)
    seen = looks(watch, way)
    if way in READS:
        told = {value for _, _, value in seen if not isinstance(value, tuple) or value[0] == 0}
        numbers = [value[1] if isinstance(value, tuple) else value for value in told]
        windows = [number // CLOCK_WINDOW for number in numbers if isinstance(number, int)]
        assert max(windows.count(window) for window in windows) <= CLOCK_READS
    else:
        assert values_in_a_window(seen, way) <= CLOCK_VALUES


def test_all_ways_together_keep_to_the_budget(guest_call: GuestCall) -> None:
    """The ways that nothing counts change with ticks, all at the same ones; reads are few."""
    uncounted = [way for way in WAYS if way not in READS and way != "event, by sched.block"]
    watch = watch_at(guest_call, START, "TIMER_EXPIRED", "periodic current count")
    seen = looks(watch, *uncounted[-4:], "TIMER_EXPIRED", "time.clock_read", "RDTSC")
    for window in {at // CLOCK_WINDOW for at, _, _ in seen}:
        told: set[int] = set()
        for at, way, value in seen:
            if at // CLOCK_WINDOW != window:
                continue
            if way == "RDTSC":
                assert isinstance(value, int)
                told.add(value)
            elif way == "time.clock_read" and isinstance(value, tuple) and value[0] == 0:
                told.add(value[1])
            elif way == "TIMER_EXPIRED":
                told.add(at // CLOCK_TICK * CLOCK_TICK)
        assert len(told) <= CLOCK_VALUES + 1  # a read that crosses into the window was counted in it


@pytest.mark.parametrize("way", WAYS)
def test_the_clock_below_its_roundings_is_never_seen(guest_call: GuestCall, way: str) -> None:
    """Clocks that differ below the grain, with looks at times that round alike, give the same looks."""
    shown = []
    for offset in (0, 68, 700, 1400):
        watch = watch_at(guest_call, START + offset, way)
        values = []
        for step in range(40):
            # Times in the middle of a grain, different by the offset, which no look carries over an edge.
            watch.hv.machine.clock.cycles = START + step * CLOCK_GRAIN * 2 + CLOCK_TICK + offset
            values.append(WAYS[way][1](watch))
        shown.append(values)
    assert shown[1:] == shown[:-1]


@pytest.mark.parametrize("timeout", [1, 1208, 1276, CLOCK_TICK - 1, CLOCK_TICK])
def test_another_domains_work_is_not_seen_by_poll_and_kick(guest_call: GuestCall, timeout: int) -> None:
    """Two runs that differ only in what another domain does, below a tick, look the same to this one."""
    shown = []
    for leaves in (1, 2, 3):
        watch = watch_at(guest_call, START)
        other = watch.hv.domains[2].vcpus[0]
        values = []
        for _ in range(3):
            watch.hv.machine.clock.cycles = START
            watch.call("sched.poll", watch.waiter, ports=(0,), count=1, timeout=timeout)
            for _ in range(leaves):
                other.cpuid(0)
            values.append(watch.call("sched.kick", vcpu=0))
        shown.append(values)
    assert shown[1:] == shown[:-1]
    assert shown[0] == [(0, 1)] * 3
