"""Who is told of a whole run, op by op, beside what the hypervisor tells any observer."""

from collections.abc import Sequence

from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Outcome
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine
from hvfuzz.oracles.framework.finding import Finding


class RunObserver(Observer):
    """Override what is of interest; watching changes nothing in a run."""

    __slots__ = ()

    def attach(self, machine: Machine) -> None:
        """A machine was booted that programs will run on."""

    def begin(self) -> None:
        """A run begins."""

    def op_started(self, index: int, op: Op) -> None:
        """An op begins."""

    def exit_started(self, vcpu: VCpu) -> None:
        """A VM exit is about to be handled."""

    def op_finished(self, program: Program, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> None:
        """The op is over, with the outcomes of all that belonged to it; `findings` are all of the run so far."""

    def findings(self, findings: Sequence[Finding]) -> None:
        """The run is over; these are all of its findings."""
