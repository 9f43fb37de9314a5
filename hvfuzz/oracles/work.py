"""Bounded work: how much the host does between two points where it could be preempted, and how much it holds.

Work is counted in words and elements touched (`hypervisor.host.Work`). The bounds are about four times what the
longest legal calls take on the clean hypervisor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.limits import BUCKETS, CONSOLE
from hvfuzz.hypervisor.frames import FrameState
from hvfuzz.oracles.oracle import Oracle, Rules, Scene

if TYPE_CHECKING:
    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.oracles.reachability import Change, Reachability

WORK_BOUND: Final = 60_000
HYPERVISOR: Final = int(FrameState.HYPERVISOR)


class Work(Oracle):
    """A guest cannot keep the host busy, or make it grow."""

    name = "work"
    shadowed = True
    rules: ClassVar[Rules] = {
        "preemption": "work between two preemption points stays within a bound",
        "heap": "the hypervisor's live heap pages are at most those at boot and one for each event bucket",
        "growth": "what a domain can make the host remember stays within its limit",
    }

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        super().__init__(scene, shadow)
        self._counter = scene.hypervisor.host.work
        self._since = 0
        self._heap_bound = 0

    def attach(self) -> None:
        """Each domain may have all its buckets allocated."""
        self._heap_bound = self.shadow.state_counts[HYPERVISOR] + BUCKETS * len(self.shadow.domains)

    def exit_started(self, vcpu: VCpu) -> None:
        """The host begins to work."""
        self._since = self._counter.units

    def preemption_point(self) -> None:
        """The host could do something else now."""
        units = self._counter.units
        if units - self._since > WORK_BOUND:
            self._exceeded(units - self._since)
        self._since = units

    def exit_finished(self, vcpu: VCpu) -> None:
        """The guest goes on."""
        units = self._counter.units
        if units - self._since > WORK_BOUND:
            self._exceeded(units - self._since)

    def _exceeded(self, units: int) -> None:
        self.report("preemption", f"{units} words or elements touched without a preemption point, bound {WORK_BOUND}")

    def settled(self, change: Change) -> None:
        """Frames may have become the hypervisor's."""
        if change.frames and self.shadow.state_counts[HYPERVISOR] > self._heap_bound:
            live = self.shadow.state_counts[HYPERVISOR]
            self.report("heap", f"{live} live pages of the hypervisor's, bound {self._heap_bound}")

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """What the caller may have made the host do, and remember."""
        units = self._counter.units
        if units - self._since > WORK_BOUND:
            self._exceeded(units - self._since)
        hypervisor = self.scene.hypervisor
        if len(self.shadow.domains[vcpu.domain].console) > CONSOLE:
            self.report("growth", f"{len(self.shadow.domains[vcpu.domain].console)} bytes on a console")
        if len(hypervisor.scheduler.polls) > len(hypervisor.machine.vcpus):
            self.report("growth", f"{len(hypervisor.scheduler.polls)} polls under way")
