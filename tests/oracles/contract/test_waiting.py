"""The table "Waiting" of ABI.md: every way to wait, with everything that might end it.

The result of `sched.kick` tells whether a vCPU still waits. The expected values are those of the table, so they judge
hypervisor and specification alike.
"""

from collections.abc import Iterator

import pytest

from hvfuzz.guest.format.text import parse
from hvfuzz.guest.run.trace import Result
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

PORTS = """\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
r1 = event.alloc(dom1, remote=dom2)
r2 = event.bind(dom2, remote=dom1, port=r0)
r3 = event.bind(dom2, remote=dom1, port=r1)
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1.1, index=X2APIC_SVR, value=0x1ff)
sti(dom1)
"""
"""Two pairs of ports between domains 1 and 2; both vCPUs of domain 1 accept interrupts."""
WAITS = {
    "block": "sched.block(dom1)\n",
    "poll": "sched.poll(dom1, ports=[r0], count=1, timeout=0x4000)\n",
    "long poll": "sched.poll(dom1, ports=[r0], count=1, timeout=0xffffffffffffffff)\n",
    "HLT": "hlt(dom1)\n",
    "HLT without interrupts": "cli(dom1)\nhlt(dom1)\n",
    "HLT behind TPR": "wrmsr(dom1, index=X2APIC_TPR, value=0x50)\nhlt(dom1)\n",
}
LATER = "sched.yield(dom2)\n"
"""The next exit begins in the next tick."""
WAKES = {
    "nothing": "",
    "polled port": "event.send(dom2, port=r2)\n",
    "other port": "event.send(dom2, port=r3)\n",
    "close polled": "event.close(dom1.1, port=r0)\n",
    "close other": "event.close(dom1.1, port=r1)\n",
    "close the peer": "event.close(dom2, port=r2)\n",
    "a tick": LATER,
    "another domain's IPI": "wrmsr(dom2, index=X2APIC_SVR, value=0x1ff)\nwrmsr(dom2, index=X2APIC_ICR, value=0x51)\n",
    "IPI": "wrmsr(dom1.1, index=X2APIC_ICR, value=0x51)\n",
    "urgent IPI": "wrmsr(dom1.1, index=X2APIC_ICR, value=0x61)\n",
    "timer": "mmio_write(dom1.1, device=TIMER, register=TIMER_PORT, size=8, value=r0)\n"
    "mmio_write(dom1.1, device=TIMER, register=TIMER_DELAY, size=8, value=1)\n" + LATER,
    "timer without a port": "mmio_write(dom1.1, device=TIMER, register=TIMER_PORT, size=8, value=99)\n"
    "mmio_write(dom1.1, device=TIMER, register=TIMER_DELAY, size=8, value=1)\n" + LATER,
}
ENDS = {
    "block": {"polled port", "other port", "timer"},
    "poll": {"polled port", "close polled", "a tick", "timer", "timer without a port"},
    "long poll": {"polled port", "close polled", "timer"},
    "HLT": {"polled port", "other port", "timer", "IPI", "urgent IPI"},
    "HLT without interrupts": {"polled port", "other port", "timer"},
    "HLT behind TPR": {"polled port", "other port", "timer", "urgent IPI"},
}
"""What ends each way of waiting. A yield is in the wakes by timer, so they end a poll, too."""


@pytest.fixture(scope="module")
def target() -> Iterator[EmulatedTarget]:
    with EmulatedTarget() as target:
        yield target


def last(target: EmulatedTarget, text: str) -> tuple[int, int, int]:
    """How the last op ended, its status and its result, in a run without findings."""
    run = target.run(parse(text, target.catalogue))
    assert run.findings == ()
    return run.trace.outcomes[-1][2:5]


@pytest.mark.parametrize("wake", WAKES)
@pytest.mark.parametrize("wait", WAITS)
def test_what_ends_each_wait(target: EmulatedTarget, wait: str, wake: str) -> None:
    text = PORTS + WAITS[wait] + WAKES[wake] + "sched.kick(dom1.1, vcpu=0)\n"
    assert last(target, text) == (Result.OK, 0, int(wake not in ENDS[wait]))


@pytest.mark.parametrize("wait", WAITS)
def test_kick_ends_every_wait(target: EmulatedTarget, wait: str) -> None:
    kicked = PORTS + WAITS[wait] + "sched.kick(dom1.1, vcpu=0)\n"
    assert last(target, kicked + "pause(dom1)\n")[0] == Result.OK
    assert last(target, kicked + "sched.kick(dom1.1, vcpu=0)\n") == (Result.OK, 0, 0)


@pytest.mark.parametrize("timer", ["TIMER", "APIC"])
@pytest.mark.parametrize("masked", [False, True])
def test_apic_timer_ends_hlt_before_a_kick(target: EmulatedTarget, timer: str, masked: bool) -> None:
    """Timers are advanced before an exit is handled, so the kick finds a running vCPU."""
    set_up = {
        "APIC": f"wrmsr(dom1, index=X2APIC_LVT_TIMER, value={0x10071 if masked else 0x71:#x})\n"
        "wrmsr(dom1, index=X2APIC_DIVIDE, value=0xb)\nwrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x4000)\n",
        "TIMER": f"mmio_write(dom1, device=TIMER, register=TIMER_PORT, size=8, value={99 if masked else 0})\n"
        "mmio_write(dom1, device=TIMER, register=TIMER_DELAY, size=8, value=1)\n",
    }[timer]
    assert last(target, f"{PORTS}{set_up}hlt(dom1)\n{LATER}sched.kick(dom1.1, vcpu=0)\n") == (Result.OK, 0, masked)


@pytest.mark.parametrize("first", ["block", "HLT", "long poll"])
@pytest.mark.parametrize("second", ["sched.block(dom1.1)\n", "hlt(dom1.1)\n"])
def test_an_event_ends_one_wait(target: EmulatedTarget, first: str, second: str) -> None:
    """The vCPU with the lower number becomes runnable; the other one waits on, until the next event."""
    text = PORTS + WAITS[first] + second + WAKES["polled port"]
    assert last(target, text + "pause(dom1)\n")[0] == Result.OK
    assert last(target, text + "pause(dom1.1)\n")[0] == Result.SKIPPED
    # The port is pending already.
    assert last(target, text + WAKES["polled port"] + "pause(dom1.1)\n")[0] == Result.OK


def test_an_event_passes_by_who_does_not_wait_for_it(target: EmulatedTarget) -> None:
    text = PORTS + WAITS["long poll"] + "sched.block(dom1.1)\n" + WAKES["other port"]
    assert last(target, text + "pause(dom1)\n")[0] == Result.SKIPPED
    assert last(target, text + "pause(dom1.1)\n")[0] == Result.OK


def test_a_poll_ends_before_the_timer_of_the_same_tick(target: EmulatedTarget) -> None:
    """So the event is left for the other vCPU."""
    text = (
        PORTS + WAKES["timer"].removesuffix(LATER) + WAITS["poll"] + "hlt(dom1.1)\n" + LATER + "cpuid(dom2, leaf=0)\n"
    )
    assert last(target, text + "pause(dom1)\n")[0] == Result.OK
    assert last(target, text + "pause(dom1.1)\n")[0] == Result.OK


def test_an_event_of_the_timer_comes_before_an_interrupt_of_the_same_tick(target: EmulatedTarget) -> None:
    """The event ends the HLT of vCPU 0, which the interrupt would have ended; vCPU 1 blocks on."""
    set_up = (  # All of it takes less than a tick.
        "# hvp 1\nworld pair\nr0 = event.alloc(dom1, remote=dom2)\n"
        "wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)\nsti(dom1)\nwrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x71)\n"
        "wrmsr(dom1, index=X2APIC_DIVIDE, value=0xb)\nwrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x4000)\n"
    )
    timer = WAKES["timer"].removesuffix(LATER)
    text = set_up + timer + "hlt(dom1)\nsched.block(dom1.1)\n" + LATER + "cpuid(dom2, leaf=0)\n"
    assert last(target, text + "pause(dom1)\n")[0] == Result.OK
    assert last(target, text + "pause(dom1.1)\n")[0] == Result.SKIPPED


@pytest.mark.parametrize("wait", ["block", "poll"])
def test_a_wait_does_not_begin_for_what_is_there(target: EmulatedTarget, wait: str) -> None:
    pending = PORTS + WAKES["polled port"]
    assert last(target, pending + WAITS[wait] + "pause(dom1)\n")[0] == Result.OK
    assert last(target, pending + "hlt(dom1)\npause(dom1)\n")[0] == Result.OK
    # A poll waits for its own ports only.
    assert last(target, PORTS + WAKES["other port"] + WAITS["poll"] + "pause(dom1)\n")[0] == Result.SKIPPED


LOOPBACK = """\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=SELF)
r1 = event.bind(dom1, remote=SELF, port=r0)
"""


@pytest.mark.parametrize(
    ("calls", "waited"),
    [
        (["sched.block(dom1)"], 1),
        (["sched.block(dom1)", "event.send(dom1, port=r1)"], 0),
        (["sched.poll(dom1, ports=[r1], count=1, timeout=9)", "event.send(dom1, port=r1)"], 1),
        (["sched.poll(dom1, ports=[r0], count=1, timeout=9)", "event.close(dom1, port=r0)"], 0),
        (["sched.poll(dom1, ports=[r0], count=1, timeout=9)", "event.close(dom1, port=r1)"], 1),
        (["sched.block(dom1)", "sched.poll(dom1, ports=[r1], count=1, timeout=9)", "event.send(dom1, port=r1)"], 1),
        (["sched.poll(dom1, ports=[r1], count=1, timeout=9)", "sched.block(dom1)", "event.send(dom1, port=r1)"], 0),
        (["sched.poll(dom1, ports=[r1], count=1, timeout=9)", "sched.yield(dom1)", "sched.yield(dom1)"], 1),
    ],
)
def test_waits_in_a_batch(target: EmulatedTarget, calls: list[str], waited: int) -> None:
    """A batch runs on while its vCPU waits, and no deadline is met in it."""
    batch = "".join(f"  {call}\n" for call in [*calls, "sched.kick(dom1, vcpu=0)"])
    assert last(target, f"{LOOPBACK}multicall(dom1, count={len(calls) + 1})\n{batch}") == (Result.OK, 0, waited)


def test_a_domain_reads_the_clock_four_times_in_a_window(target: EmulatedTarget) -> None:
    """RDTSC on another vCPU counts, and waits for the next window when nothing is left."""
    text = "# hvp 1\nworld pair\n" + "time.clock_read(dom1)\nrdtsc(dom1.1)\n" * 2
    assert last(target, text + "time.clock_read(dom1)\n")[1] == -18
    assert last(target, text + "rdtsc(dom1.1)\n")[2] == 65536
    assert last(target, text + "time.clock_read(dom2)\n")[1] == 0
