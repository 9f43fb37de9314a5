"""A run in words: every op with its exits, walks, the steps that changed ownership, and its outcome."""

from typing import Any

from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.status import Status
from hvfuzz.guest.program import Op
from hvfuzz.guest.text import render_op
from hvfuzz.guest.trace import Outcome, Result
from hvfuzz.hypervisor.effects import Step
from hvfuzz.hypervisor.observer import Observer
from hvfuzz.machine.cpu import VCpu
from hvfuzz.machine.faults import GuestFault
from hvfuzz.machine.machine import Machine
from hvfuzz.oracles.finding import Finding


def status_name(status: int) -> str:
    """A status as the contract calls it."""
    try:
        return Status(status).name
    except ValueError:
        return f"status {status}"


def _step_text(step: Step) -> str:
    fields = step._asdict() if hasattr(step, "_asdict") else {}
    inner = ", ".join(
        f"{name}={value:#x}" if isinstance(value, int) and not isinstance(value, bool) else f"{name}={value!r}"
        for name, value in fields.items()
    )
    return f"{type(step).__name__}({inner})"


class Recorder(Observer):
    """Collects `lines`; an op's own line is flush left, what happened in it is indented below."""

    __slots__ = ("_machine", "_shown", "lines")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._machine: Machine | None = None
        self._shown = 0

    def attach(self, machine: Machine) -> None:
        """Record what `machine` does from here on, from the beginning of a run."""
        self._machine = machine
        self.lines = []
        self._shown = 0

    def op_started(self, index: int, op: Op) -> None:
        """An op begins."""
        if op.race is not None:
            self.lines.append(f"{index:4}  race before fetch {op.race.fetch}: {render_op(op.race.op)}")
        self.lines.append(f"{index:4}  {render_op(op)}")
        if self._machine is not None:
            self._machine.mmu.record = []

    def _walks(self) -> None:
        """Write down the walks since the last call: which tables of which stage were read."""
        machine = self._machine
        if machine is None or not machine.mmu.record:
            return
        words = [
            f"{'guest' if step[0] == 1 else 'ept'} L{step[1]}[{step[3]}]={step[4]:#x}" for step in machine.mmu.record
        ]
        machine.mmu.record = []
        for start in range(0, len(words), 4):
            self.lines.append("        walk  " + "  ".join(words[start : start + 4]))

    def exit_started(self, vcpu: VCpu) -> None:
        """A VM exit is about to be handled."""
        self._walks()
        vmcs = vcpu.vmcs
        where = (
            f" gpa={vmcs.gpa:#x} qualification={vmcs.qualification:#x}" if vmcs.reason.name.startswith("EPT") else ""
        )
        self.lines.append(f"        exit  {vmcs.reason.name} of dom{vcpu.domain}.{vcpu.index}{where}")

    def call_finished(
        self, vcpu: VCpu, declaration: Declaration | None, args: Any, status: Status, result: int, reason: str
    ) -> None:
        """A hypercall is done."""
        name = "unknown call" if declaration is None else declaration.name
        why = f" ({reason})" if reason else ""
        self.lines.append(f"        call  {name} -> {status_name(status)}{why}, result {result:#x}")

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Host context reads or writes guest memory."""
        self._walks()
        self.lines.append(f"        {'put ' if write else 'fetch'} {size} bytes at {gva:#x} (hpa {hpa:#x})")

    def step(self, step: Step) -> None:
        """A step is about to be applied."""
        self.lines.append(f"        step  {_step_text(step)}")

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """A frame got an owner."""
        self.lines.append(f"        frame {hfn:#x} now of owner {owner:#x}, state {state}")

    def frame_freed(self, hfn: int) -> None:
        """A frame lost its owner."""
        self.lines.append(f"        frame {hfn:#x} now free")

    def preemption_point(self) -> None:
        """A long call could be interrupted."""
        self.lines.append("        preemption point")

    def op_finished(self, outcome: Outcome, findings: list[Finding]) -> None:
        """The op is over; `findings` are all of the run so far."""
        self._walks()
        match outcome.how:
            case Result.FAULT:
                text = f"guest fault {GuestFault(outcome.status, outcome.result)}"
            case Result.SKIPPED:
                text = "passed over: this vCPU cannot act now, or there is nothing to act on"
            case Result.HOST_DOWN:
                text = "the host stopped"
            case _:
                text = f"{status_name(outcome.status)}, result {outcome.result:#x}"
        self.lines.append(f"      = {text}  [clock {outcome.cycles}]")
        for finding in findings[self._shown :]:
            self.lines.append(f"      ! FINDING {finding.identity}: {finding.message}")
        self._shown = len(findings)
