"""Checks the cycles that the hypervisor adds to the clock: for what it does, no more and no less. Helper of `work`.

Time that a guest cannot account for is a channel, time without end stops everyone else, and time that is not counted
lets a guest do more in a tick than it should. Hardware charges for itself
(walks, cached translations, device work); here each charge by other code is added up, exit by exit, and compared with
what was seen to happen. For that the clock is hooked, in audited runs only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import TIME_SLICE
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.oracles.host.hooked_hardware import hooked_clock, responsible_module
from hvfuzz.oracles.scene.running_call import NO_GVA

if TYPE_CHECKING:
    from types import FrameType

    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

HARDWARE: Final = "hvfuzz.machine."
CLOCK_READS: Final = (ExitReason.RDTSC, ExitReason.RDTSCP, ExitReason.RDMSR)
"""Exits that may wait for the next window of the clock: `exits` knows their end to the cycle."""
YIELD: Final = "sched.yield"


class Cycles:
    """Hooks the clock of one machine, and reports the rule `time` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_allowed", "_calls", "_clock", "_hooked", "_report", "_spent")
    oracle = "work"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._calls: Final = scene.calls
        self._clock: Final = scene.machine.clock
        self._report: Final = scene.report
        self._hooked: Final = hooked_clock(scene.guarded(self.oracle, self._charged))
        self._spent = 0
        self._allowed = 0

    def hook(self, on: bool) -> None:
        """Watch each charge from now on, or stop."""
        self._clock.__class__ = self._hooked if on else Clock

    def reset(self) -> None:
        """Forget the charges."""
        self._spent = self._allowed = 0

    def host_exception(self, fault: BaseException) -> None:
        """The exit does not end, so its time is not compared."""

    def _charged(self, frame: FrameType, cycles: int) -> None:
        """Note a charge by the code of `frame`."""
        if not responsible_module(frame).startswith(HARDWARE):
            self._spent += cycles

    def exit_started(self, vcpu: VCpu) -> None:
        """Nothing is done yet."""
        self._spent = self._allowed = 0
        self._calls.flushes = 0

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Allow for the copied cache lines. A copy between two frames announces both, and is charged once."""
        if gva != NO_GVA or write:
            self._allowed += Cost.COPY_PER_64B * (size + 63 >> 6)

    def preemption_point(self) -> None:
        """Allow for an exit and an entry."""
        self._allowed += Cost.VMENTRY + Cost.VMEXIT

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """Allow for the time slice that the caller gives up."""
        if declaration is not None and declaration.name == YIELD and not status:
            self._allowed += TIME_SLICE

    def exit_finished(self, vcpu: VCpu) -> None:
        """Compare."""
        reason = vcpu.vmcs.reason
        allowed = self._allowed + Cost.FLUSH * self._calls.flushes
        if self._spent != allowed and reason not in CLOCK_READS:
            text = f"the hypervisor lets {self._spent} cycles pass in an exit for {reason.name} of dom{vcpu.domain}"
            self._report(self.oracle, "time", f"{text}; its copies, flushes and preemptions account for {allowed}")
