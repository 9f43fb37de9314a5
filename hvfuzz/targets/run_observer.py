"""Interface for observing a run op by op, in addition to the events of the hypervisor's observers."""

from collections.abc import Sequence

from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Outcome
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.framework.suite import OracleSuite


class RunObserver(Observer):
    """Every method does nothing by default. An observer must not change the run."""

    __slots__ = ()

    def attach(self, machine: Machine, suite: OracleSuite) -> None:
        """A world was booted on `machine`, watched by `suite`, and programs will run there."""

    def begin(self) -> None:
        """A run is about to start."""

    def op_started(self, index: int, op: Op) -> None:
        """Op number `index` is about to run."""

    def exit_started(self, vcpu: VCpu) -> None:
        """A VM exit is about to be handled."""

    def op_finished(self, program: Program, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> None:
        """The op is over. `outcomes` include its race and its batched calls; `findings` are those of the run so far."""

    def found(self, finding: Finding) -> None:
        """An oracle reports a finding of a new identity, at this moment."""

    def findings(self, findings: Sequence[Finding]) -> None:
        """The run is over, with all its findings."""
