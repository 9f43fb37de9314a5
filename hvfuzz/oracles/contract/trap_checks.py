"""Judges VM exits other than hypercalls: what they do to run states, to the clock and timers, and to polls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from hvfuzz.abi.boot import MMIO_BASE, MMIO_SIZE, TIMER
from hvfuzz.machine.addresses import SIZE_MASK
from hvfuzz.machine.cpu.processor_state import POLLING
from hvfuzz.machine.cpu.registers import RAX
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.oracles.contract.abstraction import run_state
from hvfuzz.oracles.contract.spec import Poll, RunState, State, count_read, expired, judge_halt, set_run, stop, wake
from hvfuzz.oracles.contract.spec.platform.timer import PORT, WIDTH, TimerModel
from hvfuzz.oracles.exits.emulation import is_shutdown, reads_clock
from hvfuzz.oracles.exits.local_apics import Apics

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.contract.cell_changes import CellChanges
    from hvfuzz.oracles.contract.cell_comparison import CellComparison
    from hvfuzz.oracles.scene.scene import Scene

HLT: Final = ExitReason.HLT
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
FINAL: Final = int(Qualification.FINAL)
TIMER_GPA: Final = MMIO_BASE + TIMER * MMIO_SIZE


class TrapChecks:
    """Helper of the oracle `specification`, which calls it at the moments of the same names."""

    __slots__ = (
        "_apic_timers",
        "_apics",
        "_calls",
        "_changes",
        "_clock",
        "_comparison",
        "_domains",
        "_polls",
        "_report",
        "_state",
        "_timed",
        "_timers",
        "_vcpus",
        "counted",
        "due",
    )

    def __init__(
        self,
        scene: Scene,
        domains: Sequence[Domain],
        changes: CellChanges,
        comparison: CellComparison,
        report: Callable[[str, str], None],
    ) -> None:
        self._changes: Final = changes
        self._comparison: Final = comparison
        self._report: Final = report
        self._state: Final[State] = comparison.state
        self._apics: Final = Apics(scene)
        self._calls: Final = scene.calls
        self._clock: Final = scene.machine.clock
        self._domains: Final = domains
        self._polls: Final = scene.hypervisor.scheduler.polls
        self._vcpus: Final = scene.machine.vcpus
        self._apic_timers: Final = scene.hypervisor.apic_timers
        self.counted = False
        """Whether an APIC timer ran when the present exit began, and may have ended a HLT."""
        self._timers: list[TimerModel] = []
        self._timed = False
        """Whether a timer was written to since the reset: until then none can expire."""
        self.due: list[VCpu] = []
        """The vCPUs whose poll the present exit must end before it is handled, until that is judged."""
        self.reset()

    def reset(self) -> None:
        """Forget everything since the snapshot, at which no timer is armed."""
        self.due = []
        self._timers = [TimerModel() for _ in self._domains]
        self._timed = False

    def exit_started(self) -> None:
        """End the polls that have timed out, then expire timers: both happen when an exit begins."""
        cycles = self._clock.cycles
        self.counted = bool(self._apic_timers)
        self.due = [polling for polling in self._vcpus if polling.runnable == POLLING and self._timed_out(polling)]
        for polling in self.due:
            set_run(self._state, polling.domain, polling.index, RunState.RUNNABLE)
        if self._timed:
            for number, timer in enumerate(self._timers):
                if timer.due(cycles):
                    self._end_polls(cycles)
                    expired(self._state, number, timer.read(PORT, WIDTH))

    def judge_polls(self) -> None:
        """Report the vCPUs that still poll although their time was over when the exit began.

        A hypercall is judged after that: the result of `sched.kick` tells whether a vCPU still polls.
        """
        for polling in self.due:
            if polling.runnable == POLLING:
                text = f"vCPU {polling.index} of dom{polling.domain} polls on although its time is over"
                self._report("change", text)
                self._state["vcpu", polling.domain, polling.index] = RunState.POLLING
        self.due = []

    def trap_finished(self, vcpu: VCpu) -> None:
        """Judge the exit: it may change run states, a timer, and how often the clock was read."""
        fields = self._calls.exit
        self.judge_polls()
        if fields.reason is EPT_VIOLATION:
            self._write_timer(vcpu)
        if fields.reason is HLT:
            interrupted = self._apics.takes_interrupt(vcpu)
            mismatch = judge_halt(self._state, vcpu.domain, vcpu.index, vcpu.runnable, interrupted)
            if mismatch is not None:
                self._report(mismatch.rule, mismatch.message)
                self._state["vcpu", vcpu.domain, vcpu.index] = run_state(vcpu.runnable)
        elif is_shutdown(fields):
            stop(self._state, vcpu.domain, vcpu.index)
            self._comparison.judge_cell(("vcpu", vcpu.domain, vcpu.index))
        elif reads_clock(fields):
            count_read(self._state, vcpu.domain, self._calls.read_at)
            self._comparison.judge_cell(("clock_window", vcpu.domain))
        self.judge_runs()

    def judge_runs(self) -> None:
        """Judge the vCPUs whose run state changed without a call."""
        for key, value in self._changes.run_states().items():
            if value == RunState.RUNNABLE and self._state.get(key) == RunState.HALTED:
                _, domain, index = key
                if self._apics.takes_interrupt(self._domains[domain].vcpus[index]):
                    wake(self._state, domain, index)
            self._comparison.judge_change(key, value)

    def _write_timer(self, vcpu: VCpu) -> None:
        """Repeat the access of an EPT violation at the model of the domain's timer, if it is a store to the timer."""
        fields = self._calls.exit
        if fields.write and fields.width and fields.qualification & FINAL and fields.gpa - TIMER_GPA & -MMIO_SIZE == 0:
            value = self._calls.left[RAX] & SIZE_MASK[fields.width]
            self._timed = True
            self._timers[vcpu.domain].write(fields.operand & MMIO_SIZE - 1, fields.width, value, self._clock.cycles)

    def _end_polls(self, cycles: int) -> None:
        """End the polls that have timed out, which comes before a timer's event.

        Between `deadline` and `latest` a poll may be over or not: here the hypervisor's own deadline decides.
        """
        for vcpu in self._vcpus:
            ending = self._polls.get(vcpu.id)
            poll: Poll | None = self._state.get(("poll", vcpu.domain, vcpu.index))
            if ending is not None and ending.deadline <= cycles and poll is not None and poll.deadline <= cycles:
                set_run(self._state, vcpu.domain, vcpu.index, RunState.RUNNABLE)

    def _timed_out(self, vcpu: VCpu) -> bool:
        """Whether the poll of a polling vCPU must be over; never, if the specification knows of no poll."""
        poll: Poll | None = self._state.get(("poll", vcpu.domain, vcpu.index))
        return poll is not None and poll.latest <= self._clock.cycles
