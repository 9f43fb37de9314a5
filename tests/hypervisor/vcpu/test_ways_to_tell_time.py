"""Every way by which a guest can tell time, with a probe each: none tells more than the budget of a window allows.

Two laws hold for each way, and for sets of ways together:

- The budget: a probe looks as often as a guest can. Its changes say that time has passed between two looks. The fewest
  moments that explain all changes are what it has learned; a window has at most four. Reads tell four values at most.
- The roundings: when all exits begin at other times in the same ticks (for reads, grains), a guest sees the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle
from typing import Final, NamedTuple

import pytest

from hvfuzz.abi.boot import DIRECT_MAP, MMIO_BASE, MMIO_SIZE, TIMER, WORLDS_BY_NAME
from hvfuzz.abi.limits import CLOCK_GRAIN, CLOCK_READS, CLOCK_TICK, CLOCK_VALUES, CLOCK_WINDOW
from hvfuzz.abi.manual.timekeeping import WAYS
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.vcpu.guest_clock import reads_in
from hvfuzz.machine.addresses import Gva
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
TICKS: Final = CLOCK_WINDOW // CLOCK_TICK
START: Final = 16 * CLOCK_WINDOW
WINDOWS: Final = 3
PAGE: Final = DIRECT_MAP + MMIO_BASE + TIMER * MMIO_SIZE
PORT, PERIOD, DELAY, EXPIRED = 0x100, 0x108, 0x110, 0x118
MSR: Final = 0x800
TPR, PPR, SVR, ISR, IRR, ESR = MSR + 0x08, MSR + 0x0A, MSR + 0x0F, MSR + 0x10, MSR + 0x20, MSR + 0x28
LVT, INITIAL, CURRENT, DIVIDE = MSR + 0x32, MSR + 0x38, MSR + 0x39, MSR + 0x3E
PERIODIC: Final = 0x2_0000
BY_ONE, BY_EIGHT = 0xB, 2
TSC: Final = 0x10
TIMES: Final = (1, 1208, 1276, 3000)
"""Times to wait for, which a clock finer than ticks would tell apart."""
POLLED: Final = 20
"""A port on which no event ever comes."""
NO_PORT: Final = 99


class Look(NamedTuple):
    """What a guest sees, and when it is decided: at the beginning of an exit, or from `begin` until `end`."""

    begin: int
    end: int
    way: str
    value: int


class Watch:
    """dom1 as it watches the time: its vCPU 1 looks; its vCPU 0 waits, if a way needs that. dom2 helps it.

    `schedule` says when an exit begins that would begin at a given time.
    """

    def __init__(self, call: GuestCall, schedule: Callable[[int], int] = lambda cycles: cycles) -> None:
        self.hv = boot(WORLDS_BY_NAME["pair"])
        self.clock = self.hv.machine.clock
        self.waiter, self.looker = self.hv.domains[1].vcpus
        self.helper = self.hv.domains[2].vcpus[0]
        self.seen: list[Look] = []
        self.begin = self.exits = 0
        self._call = call
        for number in range(POLLED):
            self.call(self.helper, "event.alloc", remote=1)
            self.call(self.looker, "event.bind", remote=2, port=number)
        self.call(self.looker, "event.alloc", remote=1)
        for vcpu in (self.waiter, self.looker):
            vcpu.wrmsr(SVR, 0x1FF)
            vcpu.wrmsr(DIVIDE, BY_ONE)
        self.waiter.sti()
        self._handle_exit = self.hv.machine.exit_handler
        self._schedule = schedule
        self.hv.machine.exit_handler = self._handle
        self.clock.cycles = START

    def _handle(self, vcpu: VCpu) -> None:
        self.begin = self.clock.cycles = self._schedule(self.clock.cycles)
        self.exits += 1
        self._handle_exit(vcpu)

    def call(self, vcpu: VCpu, name: str, /, **fields: int | tuple[int, ...]) -> int | None:
        """The result of a call; None if it is refused with AGAIN."""
        status, result = self._call(self.hv, vcpu, name, **fields)
        assert status in (Status.OK, Status.AGAIN)
        return result if status is Status.OK else None

    def see(self, way: str, value: int, begin: int | None = None, end: int | None = None) -> None:
        """Note what the guest sees. By default, the beginning of the last exit has decided it."""
        begin = self.begin if begin is None else begin
        self.seen.append(Look(begin, begin if end is None else end, way, value))

    def register(self, vcpu: VCpu, offset: int) -> int:
        """Read a register of the timer."""
        return vcpu.load(Gva(PAGE + offset), 8)

    def set_timer(self, vcpu: VCpu, **registers: int) -> None:
        """Write registers of the timer, in the given order."""
        for name, value in registers.items():
            vcpu.store(Gva(PAGE + {"port": PORT, "period": PERIOD, "delay": DELAY}[name]), 8, value)

    def runs(self) -> bool:
        """Whether the waiter executes, after an exit that has given deadlines a chance."""
        self.looker.cpuid(0)
        return self.waiter.runnable == RunState.RUNNABLE


Probe = Callable[[Watch], Iterator[None]]
PROBES: Final[dict[str, Probe]] = {}
"""Way -> its probe: a generator that sets it up, then looks once for each step."""


def probe(way: str) -> Callable[[Probe], Probe]:
    """Register a probe, which notes what it sees under `way`."""

    def register(function: Probe) -> Probe:
        PROBES[way] = function
        return function

    return register


def reader(way: str, read: Callable[[Watch], int | None]) -> None:
    """Register a probe that does nothing but read."""

    def looks(watch: Watch) -> Iterator[None]:
        while True:
            value = read(watch)
            if value is not None:
                watch.see(way, value)
            yield

    PROBES[way] = looks


reader("time.clock_read", lambda watch: watch.call(watch.looker, "time.clock_read"))
reader("RDTSC", lambda watch: watch.looker.rdtsc())
reader("RDTSCP", lambda watch: watch.looker.rdtscp())
reader("RDMSR of TSC", lambda watch: watch.looker.rdmsr(TSC))
READS: Final = frozenset(PROBES)
REFUSAL: Final = "refusal of time.clock_read"
NOTHING: Final = frozenset({"PPR", "ISR"})
"""Ways that tell no time at all: no interrupt is ever in service, since none is delivered."""


@probe(REFUSAL)
def _refusal(watch: Watch) -> Iterator[None]:
    """Each window ends the refusals of the one before; the call itself takes time before it looks at the clock."""
    ended, refused = 0, False
    while True:
        value = watch.call(watch.looker, "time.clock_read")
        if value is not None:
            watch.see("time.clock_read", value)
        before, refused = refused, value is None
        ended += before and not refused
        watch.see(REFUSAL, ended, end=watch.clock.cycles)
        yield


@probe("end of sched.poll")
def _poll(watch: Watch) -> Iterator[None]:
    for ended, timeout in enumerate(cycle(TIMES)):
        watch.call(watch.waiter, "sched.poll", ports=(POLLED,), count=1, timeout=timeout)
        watch.see("end of sched.poll", ended)
        while not watch.runs():
            watch.see("end of sched.poll", ended)
            yield
        watch.see("end of sched.poll", ended + 1)
        yield


@probe("result of sched.kick")
def _kick(watch: Watch) -> Iterator[None]:
    ended = 0
    for timeout in cycle(TIMES):
        watch.call(watch.waiter, "sched.poll", ports=(POLLED,), count=1, timeout=timeout)
        watch.see("result of sched.kick", ended)
        yield
        ended += watch.call(watch.looker, "sched.kick", vcpu=0) == 0
        watch.see("result of sched.kick", ended)
        yield


@probe("TIMER_EXPIRED")
def _expired(watch: Watch) -> Iterator[None]:
    watch.set_timer(watch.looker, port=NO_PORT, period=CLOCK_GRAIN, delay=1)
    while True:
        watch.see("TIMER_EXPIRED", watch.register(watch.looker, EXPIRED))
        yield


@probe("TIMER_DELAY")
def _delay(watch: Watch) -> Iterator[None]:
    for ended, delay in enumerate(cycle(TIMES)):
        watch.set_timer(watch.looker, port=NO_PORT, delay=delay)
        watch.see("TIMER_DELAY", ended)
        while left := watch.register(watch.looker, DELAY):
            watch.see("TIMER_DELAY", ended + delay - left)
            yield
        watch.see("TIMER_DELAY", ended + 1)
        yield


def _events(way: str, pending: Callable[[Watch, int], bool]) -> None:
    """Register a probe of the timer's event: whenever it is pending, the guest closes that port, and takes the next."""

    def looks(watch: Watch) -> Iterator[None]:
        for port, delay in zip(range(POLLED), cycle(TIMES), strict=False):
            watch.set_timer(watch.looker, port=port, period=0, delay=delay)
            watch.see(way, port)
            while not pending(watch, port):
                watch.see(way, port)
                yield
            watch.call(watch.looker, "event.close", port=port)
            yield

    PROBES[way] = looks


def _block(watch: Watch) -> bool:
    if watch.call(watch.waiter, "sched.block") is None:
        return True
    return not watch.call(watch.looker, "sched.kick", vcpu=0)


def _halt(watch: Watch) -> bool:
    watch.waiter.hlt()
    if watch.waiter.runnable == RunState.RUNNABLE:
        return True
    return not watch.call(watch.looker, "sched.kick", vcpu=0)


def _wait_for_poll(watch: Watch, port: int) -> bool:
    watch.call(watch.waiter, "sched.poll", ports=(port,), count=1, timeout=1 << 40)
    return watch.runs()


_events(
    "event, by the result of sched.poll",
    lambda watch, port: watch.call(watch.looker, "sched.poll", ports=(port,), count=1, timeout=0) is not None,
)
_events("event that ends sched.poll", _wait_for_poll)
_events("event, by sched.block or its end", lambda watch, _: _block(watch))
_events("event, by HLT or its end", lambda watch, _: _halt(watch))


@probe("current count")
def _count(watch: Watch) -> Iterator[None]:
    watch.looker.wrmsr(INITIAL, 0xFFFF_FFFF)
    while True:
        watch.see("current count", watch.looker.rdmsr(CURRENT))
        yield


@probe("current count, periodic")
def _periodic(watch: Watch) -> Iterator[None]:
    watch.looker.wrmsr(LVT, PERIODIC | 0x51)
    watch.looker.wrmsr(INITIAL, 4097)
    while True:
        watch.see("current count, periodic", watch.looker.rdmsr(CURRENT))
        yield


@probe("current count, DIVIDE changed")
def _divide(watch: Watch) -> Iterator[None]:
    watch.looker.wrmsr(INITIAL, 0xFFFF_FFFF)
    for value in cycle((BY_EIGHT, BY_ONE, 0)):
        watch.looker.wrmsr(DIVIDE, value)
        watch.see("current count, DIVIDE changed", watch.looker.rdmsr(CURRENT))
        yield


@probe("IRR")
def _requests(watch: Watch) -> Iterator[None]:
    """Nothing clears a bit of IRR, so each interrupt needs another vector."""
    for vector in range(0x20, 0x40):
        watch.looker.wrmsr(LVT, vector)
        watch.looker.wrmsr(INITIAL, 1)
        while not (value := watch.looker.rdmsr(IRR + 1)) >> (vector - 0x20) & 1:
            watch.see("IRR", value)
            yield
        watch.see("IRR", value)
        yield


@probe("ESR")
def _errors(watch: Watch) -> Iterator[None]:
    """An interrupt of an illegal vector is an error, which a write of ESR shows and clears."""
    errors = 0
    watch.looker.wrmsr(LVT, PERIODIC | 5)
    watch.looker.wrmsr(INITIAL, 1)
    while True:
        watch.looker.wrmsr(ESR, 0)
        begin = watch.begin
        errors += watch.looker.rdmsr(ESR) != 0
        watch.see("ESR", errors, begin)
        yield


@probe("HLT, ended or skipped by an interrupt")
def _interrupt(watch: Watch) -> Iterator[None]:
    """Each interrupt is of a higher class; TPR then holds back the lower ones, which stay in IRR."""
    for vector in range(0x20, 0x100, 0x10):
        watch.waiter.wrmsr(TPR, vector - 0x10)
        watch.waiter.wrmsr(LVT, vector)
        watch.waiter.wrmsr(INITIAL, 1)
        watch.waiter.hlt()
        while not watch.runs():
            watch.see("HLT, ended or skipped by an interrupt", vector)
            yield
        watch.see("HLT, ended or skipped by an interrupt", vector + 0x10)
        yield


@probe("PPR")
def _priority(watch: Watch) -> Iterator[None]:
    return _silent(watch, "PPR", (PPR,))


@probe("ISR")
def _in_service(watch: Watch) -> Iterator[None]:
    return _silent(watch, "ISR", range(ISR, IRR))


def _silent(watch: Watch, way: str, registers: Sequence[int]) -> Iterator[None]:
    watch.looker.sti()
    watch.looker.wrmsr(LVT, PERIODIC | 0x51)
    watch.looker.wrmsr(INITIAL, 1)
    for register in cycle(registers):
        value = watch.looker.rdmsr(register)
        watch.see(way, value)
        yield


@probe("events of another domain")
def _collusion(watch: Watch) -> Iterator[None]:
    """dom2 sends an event whenever its own timer has expired; dom1 sees it at once."""
    watch.set_timer(watch.helper, period=1, delay=1)
    expired = port = 0
    while True:
        now = watch.register(watch.helper, EXPIRED)
        begin = watch.begin
        if now != expired:
            watch.call(watch.helper, "event.send", port=port)
        expired = now
        if watch.call(watch.looker, "sched.poll", ports=(port,), count=1, timeout=0) is not None:
            port += 1
        watch.see("events of another domain", port, begin)
        yield


TELLING: Final = [way for way in PROBES if way not in READS | NOTHING]
SETS: Final = {
    "reads": [*sorted(READS), "current count"],
    "calls": ["time.clock_read", "event, by the result of sched.poll", "current count", "end of sched.poll", "ISR"],
    "kicks": ["RDTSC", "TIMER_EXPIRED", "result of sched.kick", "current count, periodic", "events of another domain"],
    "interrupts": ["RDTSCP", "TIMER_DELAY", "IRR", "HLT, ended or skipped by an interrupt"],
    "errors": ["RDMSR of TSC", "event, by sched.block or its end", "ESR", "current count, DIVIDE changed"],
    "halts": [REFUSAL, "event, by HLT or its end", "PPR"],
    "waits": ["RDTSC", "event that ends sched.poll", "current count, DIVIDE changed"],
}
"""Ways that do not hinder each other: a pending event, for one, ends all HLT."""


def looked(watch: Watch, *ways: str, waits: bool = True) -> list[Look]:
    """What the ways show by turns, through some windows. Unless the guest `waits`, it leaves out reads that would."""
    probes = {way: PROBES[way](watch) for way in ways}
    domain = watch.hv.domains[watch.looker.domain]
    while watch.clock.cycles < START + WINDOWS * CLOCK_WINDOW:
        before = watch.exits
        for way, each in probes.items():
            if waits or way not in READS or reads_in(domain, watch.clock.cycles // CLOCK_WINDOW) < CLOCK_READS:
                next(each)
        assert before < watch.exits, "without exits no time passes"
    return watch.seen


def moments(seen: Sequence[Look]) -> Counter[int]:
    """Window -> how many moments in it the changes tell, at the least."""
    last: dict[str, Look] = {}
    changes = []
    for look in seen:
        before = last.get(look.way, look)
        if look.value != before.value:
            changes.append((look.end, before.begin))
        last[look.way] = look
    told: Counter[int] = Counter()
    latest = -1
    for after, before in sorted(changes):
        if before >= latest:  # Else that moment explains this change, too.
            latest = after
            told[after // CLOCK_WINDOW] += 1
    return told


def budget(seen: Sequence[Look]) -> tuple[int, int, int]:
    """The most moments, reads, and both, that a window has."""
    told = moments([look for look in seen if look.way not in READS])
    reads = Counter(look.value // CLOCK_WINDOW for look in seen if look.way in READS)
    return max(told.values(), default=0), max(reads.values(), default=0), max((told + reads).values(), default=0)


@pytest.mark.parametrize("way", PROBES)
def test_each_way_keeps_to_the_budget(guest_call: GuestCall, way: str) -> None:
    told, reads, _ = budget(looked(Watch(guest_call), way))
    assert reads == (CLOCK_READS if way in READS or way == REFUSAL else 0)
    assert told <= TICKS
    assert (told == 0) == (way in READS | NOTHING)


@pytest.mark.parametrize("ways", SETS.values(), ids=SETS)
def test_ways_together_keep_to_the_budget(guest_call: GuestCall, ways: list[str]) -> None:
    told, reads, together = budget(looked(Watch(guest_call), *ways))
    assert told <= TICKS
    assert reads <= CLOCK_READS
    assert together <= CLOCK_VALUES
    told, reads, together = budget(looked(Watch(guest_call), *ways, waits=False))
    assert (told, reads, together) == (TICKS, CLOCK_READS, CLOCK_VALUES)


def test_the_sets_have_every_way() -> None:
    assert {way for ways in SETS.values() for way in ways} == set(PROBES)


def test_each_name_in_the_table_of_the_manual_has_a_probe() -> None:
    names = {name for row in WAYS[1:] for name in re.findall(r"[\w.]+", row[0]) if name.isupper() or "." in name}
    assert "IRR" in names
    assert "sched.kick" in names
    assert {name for name in names if not any(name in way for way in PROBES)} == {"APIC"}


def in_ticks(low: int, gap: int) -> Callable[[int], int]:
    """Three exits in each tick: the first `low` after its beginning, then `gap` apart."""
    number = count()
    return lambda _: START + low + (at := next(number)) // 3 * CLOCK_TICK + at % 3 * gap


@pytest.mark.parametrize("way", [*TELLING, *sorted(NOTHING)])
def test_times_within_a_tick_are_never_seen(guest_call: GuestCall, way: str) -> None:
    shown = []
    for low, gap in ((0, 1300), (1, 5000), (700, 2500), (9000, 3000), (12000, 1500)):
        seen = looked(Watch(guest_call, in_ticks(low, gap)), way)
        shown.append([(look.begin // CLOCK_TICK, look.value) for look in seen if look.way not in READS])
    assert shown[1:] == shown[:-1]
    assert (len({value for _, value in shown[0]}) > 1) == (way in TELLING)


def in_grains(low: int, step: int) -> Callable[[int], int]:
    """One exit every `step` grains, unless the one before it ends later, `low` after the beginning of the grain."""
    grains = count(START, step * CLOCK_GRAIN)
    return lambda cycles: max(next(grains), cycles - cycles % CLOCK_GRAIN) + low


def write_and_read(watch: Watch) -> Iterator[None]:
    """Set the counter, and read it later: a read of the time between them."""
    while True:
        watch.looker.wrmsr(TSC, 5)
        watch.see("WRMSR of TSC", watch.looker.rdmsr(TSC))
        yield


@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize("way", [*sorted(READS), "WRMSR of TSC"])
def test_times_within_a_grain_are_never_read(
    guest_call: GuestCall, monkeypatch: pytest.MonkeyPatch, way: str, step: int
) -> None:
    monkeypatch.setitem(PROBES, "WRMSR of TSC", write_and_read)
    shown = []
    for low in (0, 1, 700, 2500):
        seen = looked(Watch(guest_call, in_grains(low, step)), way)
        shown.append([(look.begin // CLOCK_GRAIN, look.value) for look in seen])
    assert shown[1:] == shown[:-1]
    assert len(shown[0]) > CLOCK_READS
