"""Bounded work: how much the host does between two points where it could be preempted, and how much it holds.

Work is counted in words and elements touched (`hypervisor.host.Work`). The bounds are at least four times what the
longest legal calls do on the clean hypervisor: 1478 (`memory.exchange` of 64 pages, each in its own large leaf) among
the calls with preemption points, 104 (`grant.map` of both sides, all tables missing) among those without, and 190 for
a burst of 8 releases in `grant.unmap`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.limits import BUCKETS, CONSOLE
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
"""For calls that are declared long."""
SHORT_BOUND: Final = 800
"""For the other ones."""
OWN_BOUNDS: Final = {"grant.unmap": 800}
"""For calls whose preemption points lie closer together."""
GROWING: Final = ("console.", "sched.")
"""What the names of calls begin with that make the host remember something that is no frame, grant or port."""
HYPERVISOR: Final = int(FrameState.HYPERVISOR)
IO: Final = ExitReason.IO


class Work(Oracle):
    """A guest cannot keep the host busy, or make it grow."""

    name = "work"
    shadowed = True
    rules: ClassVar[Rules] = {
        "preemption": "work between two preemption points stays within a bound",
        "heap": "the hypervisor's live heap pages are at most those at boot and one for each event bucket",
        "growth": "what a domain can make the host remember stays within its limit",
        "hang": "the host comes back from every op (reported by whoever runs the program, by the wall clock)",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._counter = scene.hypervisor.host.work
        self._calls = scene.calls
        self._heap_bound = 0

    def attach(self) -> None:
        """Each domain may have all its buckets allocated."""
        self._heap_bound = self.shadow.state_counts[HYPERVISOR] + BUCKETS * len(self.shadow.domains)

    def preemption_point(self) -> None:
        """The host could do something else now."""
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
        """Frames may have become the hypervisor's."""
        if change.frames and self.shadow.state_counts[HYPERVISOR] > self._heap_bound:
            live = self.shadow.state_counts[HYPERVISOR]
            self.report("heap", f"{live} live pages of the hypervisor's, bound {self._heap_bound}")

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """What the caller may have made the host do, and remember."""
        units = self._counter.units - self._calls.since
        if units > SHORT_BOUND:
            self._check(declaration, units)
        if declaration is not None and declaration.name.startswith(GROWING):
            self._check_growth(vcpu.domain)

    def exit_finished(self, vcpu: VCpu) -> None:
        """What was done beside a call counts as well."""
        units = self._counter.units - self._calls.since
        if units > LONG_BOUND:
            self.report("preemption", f"{units} words or elements touched in one exit, bound {LONG_BOUND}")

    def trap_finished(self, vcpu: VCpu) -> None:
        """What a serial port keeps counts, too."""
        if vcpu.vmcs.reason is IO:
            uart = self.shadow.domains[vcpu.domain].uart
            if max(len(uart.transmitted), len(uart.received)) > UART_LIMIT:
                self.report("growth", f"{len(uart.transmitted)} bytes sent and {len(uart.received)} received are kept")

    def _check_growth(self, number: int) -> None:
        hypervisor = self.scene.hypervisor
        console = self.shadow.domains[number].console
        if len(console) > CONSOLE:
            self.report("growth", f"{len(console)} bytes on a console")
        if len(hypervisor.scheduler.polls) > len(hypervisor.machine.vcpus):
            self.report("growth", f"{len(hypervisor.scheduler.polls)} polls under way")

    def audit(self) -> None:
        """What any domain may have made the host remember."""
        for number in range(len(self.shadow.domains)):
            self._check_growth(number)
