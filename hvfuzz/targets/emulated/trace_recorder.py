"""The trace of `hvfuzz repro --trace`: each op with its exits, walks, copies, accesses, steps, frames and outcome."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.status import Status
from hvfuzz.guest.format.text import PREPOSITIONS, render_op
from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.hypervisor.core.observer import AppliedStep
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
    """Name of a status in the hypercall contract."""
    try:
        return Status(status).name
    except ValueError:
        return f"status {status}"


def owner_name(owner: int) -> str:
    """Name of the owner in a frame word."""
    return {OWNER_HYPERVISOR: "the hypervisor", OWNER_NONE: "nobody"}.get(owner, f"dom{owner}")


def _text(value: object) -> str:
    """The text of a field of a step or call; integers above 9 are in hexadecimal."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return f"{type(value).__name__}({_fields(value._asdict())})"
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, bool) or not isinstance(value, int):
        # The default text of an object contains its address, which differs between runs.
        return type(value).__name__ if type(value).__repr__ is object.__repr__ else str(value)
    return hex(value) if value > 9 else str(value)


def _fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in fields.items())


def _bytes(size: int) -> str:
    return f"{size} byte{'' if size == 1 else 's'}"


def _walk_step(step: WalkStep) -> str:
    """The text of a table entry that was read, or of a cached one."""
    stage, level, table, index, entry = step
    if stage in (STAGE_1, STAGE_2):
        return f"{STAGES[stage]} L{level}[{index}]={entry:#x}"
    return f"{STAGES[stage]} L{level} cached, table {table:#x}"


class TraceRecorder(RunObserver):
    """Collects `lines`: a line for each op, which begins with its number, and indented lines for the events in it."""

    __slots__ = ("_last_walk", "_machine", "_op", "_shown", "lines")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._machine: Machine | None = None
        self._shown = 0
        self._op: Op | None = None
        self._last_walk: list[str] = []

    def attach(self, machine: Machine) -> None:
        """Record the accesses of `machine`; an access observer that is already attached stays attached."""
        self._machine = machine
        inner = machine.access_observer

        def accessed(initiator: Any, hpa: int, size: int, access: int) -> None:
            if self._op is not None:
                self._access(initiator, hpa, size, access)
            if inner is not None:
                inner(initiator, hpa, size, access)

        machine.access_observer = accessed

    def begin(self) -> None:
        """See `RunObserver.begin`."""
        self.lines = []
        self._shown = 0

    def _note(self, what: str, text: str) -> None:
        """Add a line about an event in the current op, after the walks before the event."""
        self._add_walks()
        self.lines.append(f"        {what:6} {text}")

    def op_started(self, index: int, op: Op) -> None:
        """See `RunObserver.op_started`."""
        if op.race is not None:
            where = PREPOSITIONS[op.race.point] or "before fetch "
            self.lines.append(f"      race {where}{op.race.number}: {render_op(op.race.op)}")
        self.lines.append(f"{index:4}  {render_op(op)}")
        self._op = op
        self._last_walk = []
        if self._machine is not None:
            self._machine.mmu.record = []

    def _add_walks(self) -> None:
        """Add the table entries that were read since the last call."""
        machine = self._machine
        if machine is None or not machine.mmu.record:
            return
        steps, machine.mmu.record = machine.mmu.record, []
        words = [_walk_step(step) for step in steps if step[0] in STAGES]
        if not words:
            return
        if words == self._last_walk:
            self.lines.append(f"        walk   the same {len(words)} table entries again")
            return
        self._last_walk = words
        for start in range(0, len(words), WALK_STEPS_A_LINE):
            self.lines.append("        walk   " + "  ".join(words[start : start + WALK_STEPS_A_LINE]))

    def _access(self, initiator: Any, hpa: int, size: int, access: int) -> None:
        who = f"dom{initiator.domain}.{initiator.index}" if isinstance(initiator, VCpu) else initiator.name
        verb = "writes" if access & WRITE else "reads" if access & READ else "executes"
        self._note("access", f"{who} {verb} {_bytes(size)} at hpa {hpa:#x}")

    def exit_started(self, vcpu: VCpu) -> None:
        """See `RunObserver.exit_started`."""
        vmcs = vcpu.vmcs
        where = ""
        if vmcs.reason.name.startswith("EPT"):
            where = f", gpa {vmcs.gpa:#x}, qualification {vmcs.qualification:#x}"
        self._note("exit", f"{vmcs.reason.name} on dom{vcpu.domain}.{vcpu.index}{where}")

    def call_started(self, vcpu: VCpu, declaration: Declaration | None, args: Any) -> None:
        """See `Observer.call_started`; a call that is refused before decoding has no arguments."""
        if declaration is not None and args is not None:
            values = {field.name: getattr(args, field.attribute or field.name) for field in declaration.fields}
            self._note("call", f"{declaration.name}({_fields(values)})")

    def call_finished(
        self, vcpu: VCpu, declaration: Declaration | None, args: Any, status: Status, result: int, reason: str
    ) -> None:
        """See `Observer.call_finished`."""
        name = "unknown call" if declaration is None else declaration.name
        why = f" ({reason})" if reason else ""
        self._note("return", f"{name}: {status_name(status)}{why}, result {_text(result)}")

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """See `Observer.guest_copy`."""
        where = f"gva {gva:#x}, " if gva >= 0 else ""
        self._note("put" if write else "fetch", f"{_bytes(size)} at {where}hpa {hpa:#x}")

    def step(self, step: AppliedStep) -> None:
        """See `Observer.step`."""
        self._note("step", _text(step))

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """See `Observer.frame_allocated`."""
        self._note("frame", f"{hfn:#x}: now {FrameState(state).name}, owned by {owner_name(owner)}")

    def frame_freed(self, hfn: int) -> None:
        """See `Observer.frame_freed`."""
        self._note("frame", f"{hfn:#x}: released")

    def preemption_point(self) -> None:
        """See `Observer.preemption_point`."""
        self._note("point", "the call can be preempted here")

    def op_finished(self, program: Program, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> None:
        """See `RunObserver.op_finished`."""
        self._add_walks()
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
        """Add the findings that are new since the last call."""
        for finding in findings[self._shown :]:
            self.lines.append(f"      ! FINDING {finding.identity}: {finding.message}")
        self._shown = len(findings)

    def _outcome(self, outcome: Outcome) -> str:
        match outcome.how:
            case Result.FAULT:
                return f"guest fault: #{Vector(outcome.status).name}, error code {_text(outcome.result)}"
            case Result.SKIPPED:
                return "skipped: the vCPU cannot run now, or the precondition of the op does not hold"
            case Result.HOST_DOWN:
                return "the host stopped"
            case _:
                return f"{status_name(outcome.status)}, result {_text(outcome.result)}"
