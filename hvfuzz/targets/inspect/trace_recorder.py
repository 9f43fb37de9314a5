"""A run in words: every op with its exits, walks, fetches, accesses, steps, changes of ownership, and outcome."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.status import Status
from hvfuzz.guest.format.text import render_op
from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.hypervisor.core.effects import Step
from hvfuzz.hypervisor.memory.frames import OWNER_HYPERVISOR, OWNER_NONE, FrameState
from hvfuzz.machine.addresses import READ, WRITE
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu.ept_walk import STAGE_1, STAGE_2, STRUCTURE_1, STRUCTURE_2, WalkStep
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.run_observer import RunObserver

STAGES = {STAGE_1: "guest", STAGE_2: "ept", STRUCTURE_1: "guest", STRUCTURE_2: "ept"}
WALK_STEPS_A_LINE = 4


def status_name(status: int) -> str:
    """A status as the contract calls it."""
    try:
        return Status(status).name
    except ValueError:
        return f"status {status}"


def owner_name(owner: int) -> str:
    """The owner in a frame word, in words."""
    return {OWNER_HYPERVISOR: "the hypervisor", OWNER_NONE: "nobody"}.get(owner, f"dom{owner}")


def _text(value: object) -> str:
    """A field of a step or of a call: numbers in hexadecimal where that is how people know them."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return f"{type(value).__name__}({_fields(value._asdict())})"
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, bool) or not isinstance(value, int):
        # An object's own text would have its address in it.
        return type(value).__name__ if type(value).__repr__ is object.__repr__ else str(value)
    return hex(value) if value > 9 else str(value)


def _fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in fields.items())


def _walked(step: WalkStep) -> str:
    """A table entry that was read, or one that was cached and led to a table."""
    stage, level, table, index, entry = step
    if stage in (STAGE_1, STAGE_2):
        return f"{STAGES[stage]} L{level}[{index}]={entry:#x}"
    return f"{STAGES[stage]} L{level} cached, table {table:#x}"


class TraceRecorder(RunObserver):
    """Collects `lines`; an op's own line begins with its number, what happened in it is indented below."""

    __slots__ = ("_machine", "_op", "_shown", "_walked", "lines")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._machine: Machine | None = None
        self._shown = 0
        self._op: Op | None = None
        self._walked: list[str] = []

    def attach(self, machine: Machine) -> None:
        """Record what `machine` does; whoever observes its accesses goes on doing so."""
        self._machine = machine
        inner = machine.access_observer

        def accessed(initiator: Any, hpa: int, size: int, access: int) -> None:
            if self._op is not None:
                self._access(initiator, hpa, size, access)
            if inner is not None:
                inner(initiator, hpa, size, access)

        machine.access_observer = accessed

    def begin(self) -> None:
        """A run begins."""
        self.lines = []
        self._shown = 0

    def _note(self, what: str, text: str) -> None:
        """A line about the op under way, below the walks that led there."""
        self._walks()
        self.lines.append(f"        {what:6} {text}")

    def op_started(self, index: int, op: Op) -> None:
        """An op begins."""
        if op.race is not None:
            self.lines.append(f"      race before fetch {op.race.fetch}: {render_op(op.race.op)}")
        self.lines.append(f"{index:4}  {render_op(op)}")
        self._op = op
        self._walked = []
        if self._machine is not None:
            self._machine.mmu.record = []

    def _walks(self) -> None:
        """Write down the walks since the last call: which tables of which stage were read."""
        machine = self._machine
        if machine is None or not machine.mmu.record:
            return
        steps, machine.mmu.record = machine.mmu.record, []
        words = [_walked(step) for step in steps if step[0] in STAGES]
        if not words:
            return
        if words == self._walked:
            self.lines.append(f"        walk   the same {len(words)} table entries again")
            return
        self._walked = words
        for start in range(0, len(words), WALK_STEPS_A_LINE):
            self.lines.append("        walk   " + "  ".join(words[start : start + WALK_STEPS_A_LINE]))

    def _access(self, initiator: Any, hpa: int, size: int, access: int) -> None:
        who = f"dom{initiator.domain}.{initiator.index}" if isinstance(initiator, VCpu) else initiator.name
        way = "writes" if access & WRITE else "reads" if access & READ else "executes"
        self._note("access", f"{who} {way} {size} bytes at hpa {hpa:#x}")

    def exit_started(self, vcpu: VCpu) -> None:
        """A VM exit is about to be handled."""
        vmcs = vcpu.vmcs
        where = ""
        if vmcs.reason.name.startswith("EPT"):
            where = f", gpa {vmcs.gpa:#x}, qualification {vmcs.qualification:#x}"
        self._note("exit", f"{vmcs.reason.name} of dom{vcpu.domain}.{vcpu.index}{where}")

    def call_started(self, vcpu: VCpu, declaration: Declaration | None, args: Any) -> None:
        """A hypercall is decoded; those that are refused before that have no arguments."""
        if declaration is not None and args is not None:
            values = {field.name: getattr(args, field.attribute or field.name) for field in declaration.fields}
            self._note("call", f"{declaration.name}({_fields(values)})")

    def call_finished(
        self, vcpu: VCpu, declaration: Declaration | None, args: Any, status: Status, result: int, reason: str
    ) -> None:
        """A hypercall is done."""
        name = "unknown call" if declaration is None else declaration.name
        why = f" ({reason})" if reason else ""
        self._note("return", f"{name}: {status_name(status)}{why}, result {_text(result)}")

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Host context reads or writes guest memory."""
        where = f"gva {gva:#x}, " if gva >= 0 else ""
        self._note("put" if write else "fetch", f"{size} bytes at {where}hpa {hpa:#x}")

    def step(self, step: Step) -> None:
        """A step is about to be applied."""
        self._note("step", _text(step))

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """A frame got an owner."""
        self._note("frame", f"{hfn:#x} now {FrameState(state).name} of {owner_name(owner)}")

    def frame_freed(self, hfn: int) -> None:
        """A frame lost its owner, or went back to a pool."""
        self._note("frame", f"{hfn:#x} given back")

    def preemption_point(self) -> None:
        """A long call could be interrupted."""
        self._note("point", "the call could be preempted here")

    def op_finished(self, program: Program, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> None:
        """The op is over, with the outcomes of all that belonged to it; `findings` are all of the run so far."""
        self._walks()
        op, self._op = self._op, None
        for outcome in outcomes:
            text = f"{self._outcome(outcome)}  [clock {outcome.cycles}]"
            what = ""
            if len(outcomes) > 1:
                mine = program.ops[outcome.op]
                raced = op is not None and op.race is not None and outcome.code == op.race.op.kind.code
                what = f"{(op.race.op if raced and op and op.race else mine).kind.name}: "
            self.lines.append(f"      = {what}{text}")
        self.findings(findings)

    def findings(self, findings: Sequence[Finding]) -> None:
        """Write down the findings that are new since the last call."""
        for finding in findings[self._shown :]:
            self.lines.append(f"      ! FINDING {finding.identity}: {finding.message}")
        self._shown = len(findings)

    def _outcome(self, outcome: Outcome) -> str:
        match outcome.how:
            case Result.FAULT:
                return f"guest fault: #{Vector(outcome.status).name}, error code {_text(outcome.result)}"
            case Result.SKIPPED:
                return "passed over: this vCPU cannot act now, or there is nothing to act on"
            case Result.HOST_DOWN:
                return "the host stopped"
            case _:
                return f"{status_name(outcome.status)}, result {_text(outcome.result)}"
