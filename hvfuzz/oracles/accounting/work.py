"""Bounded work: how much the host does between two preemption points, and how much it stores.

Work is counted in words and elements touched (`hypervisor.core.host.Work`). The bounds are at least four times the
maximum of legal calls on the clean hypervisor: 1478 (`memory.exchange` of 64 pages, each in its own large leaf) among
the calls with preemption points, 104 (`grant.map` of both sides, all tables missing) among those without, and 190 for
a burst of 8 releases in `grant.unmap`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.limits import BUCKETS, CONSOLE, TIME_SLICE
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.oracles.accounting.growth import UART_LIMIT
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.abi.declaration import Declaration
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.shadow.changes import Change
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

LONG_BOUND: Final = 6_000
"""Bound for calls that are declared long, in work units."""
SHORT_BOUND: Final = 800
"""Bound for all other calls."""
OWN_BOUNDS: Final = {"grant.unmap": 800}
"""Bounds for long calls with closer preemption points."""
GROWING: Final = ("console.", "sched.")
"""Prefixes of calls that store something other than frames, grants and ports in the host."""
HYPERVISOR: Final = int(FrameState.HYPERVISOR)
TIME_BOUND: Final = 400_000
"""Bound of the cycles that one exit takes, beside the time slices that its caller gives up: about four times the
maximum of legal calls on the clean hypervisor. Audited runs know the time of each call exactly: see `cycles`."""
YIELD: Final = "sched.yield"
IO: Final = ExitReason.IO


class Work(Oracle):
    """A guest can neither keep the host busy nor make it grow."""

    name = "work"
    shadowed = True
    rules: ClassVar[Rules] = {
        "preemption": "the work between two preemption points stays within a bound",
        "heap": "the hypervisor has at most its heap pages at boot, plus one for each event bucket",
        "growth": "what a domain can store in the host stays within its limit",
        "time": "an exit takes the time of what it does, and no more",
        "turns": "the lines that run between two preemption points stay within a bound, whatever they touch",
        "entries": "the table entries written between two preemption points are about those of a quota of pages",
        "units": "each word that the hypervisor accesses counts as work",
        "hang": "the host returns from every op (reported by the target, by processor time)",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._counter = scene.hypervisor.host.work
        self._calls = scene.calls
        self._clock = scene.machine.clock
        self._heap_bound = 0
        self._slices = 0
        """Time slices given up in the present exit."""

    def attach(self) -> None:
        """Compute the bound of heap pages: each domain may allocate all its buckets."""
        self._heap_bound = self.shadow.state_counts[HYPERVISOR] + BUCKETS * len(self.shadow.domains)

    def reset(self) -> None:
        """Forget the last exit."""
        self._slices = 0

    def exit_started(self, vcpu: VCpu) -> None:
        """No time slice is given up yet."""
        self._slices = 0

    def preemption_point(self) -> None:
        """Check the work since the last preemption point."""
        calls = self._calls
        units = self._counter.units
        if units - calls.since > SHORT_BOUND:
            self._check(calls.current.declaration, units - calls.since)
        calls.since = units

    def _check(self, call: Declaration | None, units: int) -> None:
        bound = SHORT_BOUND
        if call is not None and call.long:
            bound = OWN_BOUNDS.get(call.name, LONG_BOUND)
        if units > bound:
            text = f"{units} words or elements touched without a preemption point, bound {bound}"
            self.report("preemption", text)

    def shadow_changed(self, change: Change) -> None:
        """Check the number of heap pages."""
        if change.frames and self.shadow.state_counts[HYPERVISOR] > self._heap_bound:
            live = self.shadow.state_counts[HYPERVISOR]
            self.report("heap", f"the hypervisor has {live} heap pages, bound {self._heap_bound}")

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """Check the work since the last preemption point, and what the call stored."""
        units = self._counter.units - self._calls.since
        if units > SHORT_BOUND:
            self._check(declaration, units)
        if declaration is not None and declaration.name.startswith(GROWING):
            self._check_growth(vcpu.domain)
            self._slices += declaration.name == YIELD

    def exit_finished(self, vcpu: VCpu) -> None:
        """Check the work since the last preemption point, or since the start of the exit."""
        units = self._counter.units - self._calls.since
        if units > LONG_BOUND:
            self.report("preemption", f"{units} words or elements touched in one exit, bound {LONG_BOUND}")
        cycles = self._clock.cycles - self._calls.read_at
        if cycles > TIME_BOUND + self._slices * TIME_SLICE:
            self.report("time", f"an exit of dom{vcpu.domain} takes {cycles} cycles, bound {TIME_BOUND}")

    def trap_finished(self, vcpu: VCpu) -> None:
        """Check the buffers of a serial port."""
        if self._calls.exit.reason is IO:
            uart: Any = self.shadow.domains[vcpu.domain].devices.by_name["uart"]
            if max(len(uart.transmitted), len(uart.received)) > UART_LIMIT:
                self.report(
                    "growth",
                    f"a serial port keeps {len(uart.transmitted)} sent and {len(uart.received)} received bytes",
                )

    def _check_growth(self, number: int) -> None:
        hypervisor = self.scene.hypervisor
        console = self.shadow.domains[number].console
        if len(console) > CONSOLE:
            self.report("growth", f"the console of dom{number} holds {len(console)} bytes, limit {CONSOLE}")
        if len(hypervisor.scheduler.polls) > len(hypervisor.machine.vcpus):
            self.report(
                "growth",
                f"the scheduler holds {len(hypervisor.scheduler.polls)} polls, limit {len(hypervisor.machine.vcpus)}",
            )

    def audit(self) -> None:
        """Check what each domain stored."""
        for number in range(len(self.shadow.domains)):
            self._check_growth(number)
