"""The comparison of one op in two runs: what parted, with both values."""

from __future__ import annotations

from typing import Final, NamedTuple

from hvfuzz.abi.status import Status
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.oracles.noninterference.channels import Channel
from hvfuzz.oracles.noninterference.observation import STATE, Moment, VcpuState


class Parting(NamedTuple):
    """What `domain` sees in op number `op` of two runs that should look the same.

    With `at_end`, it was seen after the last op; `op` is that one.
    """

    rule: str
    op: int
    domain: int
    first: str
    second: str
    at_end: bool = False


EXCUSED: Final = "excused"
"""The rule of a difference that a declared channel explains; what follows from it is not judged."""


def compare(
    op: int, domain: int, first: Moment, second: Moment, declared: frozenset[Channel], *, waits: bool = False
) -> Parting | None:
    """The first thing that differs in an op; None if it looks the same.

    With `waits`, the op may have waited for the next window, so that it takes as long as the window has left.
    """
    if Channel.FRAMES in declared and first.short != second.short:
        return Parting(EXCUSED, op, domain, "", "")
    if Channel.PLACEMENT in declared and first.tables != second.tables:
        return Parting(EXCUSED, op, domain, "", "")
    if len(first.outcomes) != len(second.outcomes):
        return Parting("outcome", op, domain, f"{len(first.outcomes)} outcomes", f"{len(second.outcomes)}")
    for mine, other in zip(first.outcomes, second.outcomes, strict=True):
        if mine[:5] != other[:5]:
            return Parting(_rule(mine, other), op, domain, outcome_text(mine), outcome_text(other))
    for index, (state, others) in enumerate(zip(first.states, second.states, strict=True)):
        if state != others:
            return of_states(op, domain, index, state, others)
    if first.timing.end - first.timing.start != second.timing.end - second.timing.start and not (
        waits and Channel.WINDOWS in declared and first.timing.end == second.timing.end
    ):
        lengths = [each.timing.end - each.timing.start for each in (first, second)]
        return Parting("time", op, domain, f"{lengths[0]} cycles", f"{lengths[1]} cycles")
    return None


def _rule(mine: Outcome, other: Outcome) -> str:
    if Result.SKIPPED in (mine.how, other.how):
        return "waiting"
    if mine.how != other.how:
        return "fault"
    return "result" if mine.status == other.status else "fault" if mine.how == Result.FAULT else "status"


def outcome_text(outcome: Outcome) -> str:
    """An outcome in words."""
    match outcome.how:
        case Result.HOST_DOWN:
            return "the host stops"
        case Result.SKIPPED:
            return "skipped, since its vCPU waits"
        case Result.FAULT:
            return f"#{Vector(outcome.status).name}, error code {outcome.result:#x}"
    known = outcome.status in Status._value2member_map_
    status = Status(outcome.status).name if known else f"status {outcome.status}"
    return f"{status}, result {outcome.result:#x}"


def of_states(op: int, domain: int, index: int, mine: VcpuState, other: VcpuState) -> Parting:
    """The first difference between two states of a vCPU, of this index in its domain."""
    place = next(at for at, (one, two) in enumerate(zip(mine, other, strict=True)) if one != two)
    name = STATE[place]
    if place == 0:
        register = next(at for at, (one, two) in enumerate(zip(mine[0], other[0], strict=True)) if one != two)
        text = f"{Reg(register).name} of vCPU {index} {mine[0][register]:#x}"
        return Parting("registers", op, domain, text, f"{other[0][register]:#x}")
    rule = "waiting" if name == "run state" else "registers"
    return Parting(rule, op, domain, f"{name} of vCPU {index} {mine[place]}", f"{other[place]}")
