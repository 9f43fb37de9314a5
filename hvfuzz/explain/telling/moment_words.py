"""Each kind of moment as lines of a trace."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from hvfuzz.explain.recording.in_words import cached_text, owner_name, place_of, who_text
from hvfuzz.explain.recording.recorded_moments import (
    Access,
    Cached,
    Call,
    Copy,
    DeviceRegister,
    Dropped,
    Exit,
    Found,
    FrameFreed,
    FrameTaken,
    LeafGone,
    LeafSet,
    Moment,
    OpBegins,
    OpEnds,
    PreemptionPoint,
    Return,
    Step,
    Walk,
)
from hvfuzz.explain.telling.outcomes import number_text, outcome_text, status_name
from hvfuzz.guest.format.text import PREPOSITIONS, render_op
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, READ, WRITE, rights_text
from hvfuzz.machine.mmu.ept_walk import STAGE_1, STAGE_2, STRUCTURE_1, STRUCTURE_2, WalkStep

KINDS: Final = MappingProxyType(
    {
        "access": "a vCPU or a device accesses memory",
        "device": "a register of a device is read or written",
        "walk": "the processor reads table entries",
        "cache": "a translation comes into a cache",
        "drop": "a translation leaves a cache: it is flushed, or makes room",
        "exit": "a VM exit: the hypervisor runs",
        "call": "a hypercall, with its arguments as the hypervisor has decoded them",
        "fetch": "the hypervisor copies from guest memory",
        "put": "the hypervisor copies to guest memory",
        "step": "a change that the call makes",
        "frame": "a frame changes its owner",
        "map": "an entry of a table that hardware walks maps a page",
        "unmap": "such an entry is gone, or has lost rights",
        "point": "the call could be preempted here",
        "return": "the hypercall ends",
    }
)
"""First word of a line -> what the line tells, in the order of the legend."""
STAGES: Final = {STAGE_1: "guest", STAGE_2: "ept", STRUCTURE_1: "guest", STRUCTURE_2: "ept"}
A_LINE: Final = 4
"""Table entries on one line."""


def words(moment: Moment) -> Iterator[str]:
    """The lines for a moment."""
    match moment:
        case OpBegins(number, op):
            if op.race is not None:
                where = PREPOSITIONS[op.race.point] or "before fetch "
                yield f"      race {where}{op.race.number}: {render_op(op.race.op)}"
            yield f"{number:4}  {render_op(op)}"
        case OpEnds(_, outcomes, kinds):
            for outcome, kind in zip(outcomes, kinds, strict=True):
                which = "" if len(outcomes) == 1 else f"{kind}: "
                yield f"      = {which}{outcome_text(outcome)}  [clock {outcome.cycles}]"
        case Found(finding, _, _):
            yield f"      ! {finding.identity}: {finding.message}"
        case Walk(steps):
            entries = [_entry(step) for step in steps if step[0] in STAGES]
            for start in range(0, len(entries), A_LINE):
                yield _line("walk", "  ".join(entries[start : start + A_LINE]))
        case _:
            yield _line(*_kind_and_text(moment))


def _line(kind: str, text: str) -> str:
    return f"        {kind:7} {text}"


def _kind_and_text(moment: Moment) -> tuple[str, str]:
    match moment:
        case Access(who, hpa, size, access):
            verb = "writes" if access & WRITE else "reads" if access & READ else "executes"
            return "access", f"{who_text(who)} {verb} {_bytes(size)} at hpa {hpa:#x}"
        case DeviceRegister(device, register, size, value, write):
            way = f"{value:#x} to" if write else f"{value:#x} from"
            return "device", f"{'write' if write else 'read'} {way} register {register:#x} of {device}, {_bytes(size)}"
        case Cached():
            return "cache", f"{cached_text(moment)}: frame {moment.hfn:#x}"
        case Dropped():
            return "drop", f"{cached_text(moment)}: frame {moment.hfn:#x}"
        case Exit(who, reason, gpa, qualification):
            where = "" if gpa is None else f", gpa {gpa:#x}, qualification {qualification:#x}"
            return "exit", f"{reason} on {who_text(who)}{where}"
        case Call(_, name, values):
            return "call", f"{name}({_fields(values or {})})"
        case Return(name, status, result, reason):
            why = f" ({reason})" if reason else ""
            return "return", f"{name}: {status_name(status)}{why}, result {number_text(result)}"
        case Copy(_, gva, hpa, size, write, origin):
            where = f"gva {gva:#x}, " if gva >= 0 else ""
            chosen = f" ({origin})" if " " in origin else ""
            return "put" if write else "fetch", f"{_bytes(size)} at {where}hpa {hpa:#x}{chosen}"
        case Step(name, fields):
            return "step", f"{name}({_fields(fields)})" if name else _fields(fields)
        case FrameTaken(hfn, frames, owner, state):
            return "frame", f"{_range(hfn, frames)}: now {FrameState(state).name}, of {owner_name(owner, state)}"
        case FrameFreed(hfn, frames):
            return "frame", f"{_range(hfn, frames)}: freed"
        case LeafSet(space, page, frames, hfn, rights, foreign):
            grant = ", by a grant" if foreign else ""
            return "map", f"{_pages(space, page, frames)} to {_range(hfn, frames)}, rights {rights_text(rights)}{grant}"
        case LeafGone(space, page, frames, hfn, rights):
            return "unmap", f"{_pages(space, page, frames)} from {_range(hfn, frames)}, rights {rights_text(rights)}"
        case PreemptionPoint():
            return "point", "the call can be preempted here"
    raise AssertionError(moment)


def _entry(step: WalkStep) -> str:
    """A table entry that was read, or a cached one."""
    stage, level, table, slot, entry = step
    if stage in (STAGE_1, STAGE_2):
        return f"{STAGES[stage]} L{level}[{slot}]={entry:#x}"
    return f"{STAGES[stage]} L{level} cached, table {table:#x}"


def _range(hfn: int, frames: int) -> str:
    return f"frame {hfn:#x}" if frames == 1 else f"frames {hfn:#x} to {hfn + frames - 1:#x}"


def _pages(space: int, page: int, frames: int) -> str:
    """The pages of a space, as a range if there are several."""
    place = place_of(space, page)
    if frames == 1:
        return place
    address, _, whose = place.partition(" of ")
    return f"{address} to {(page + frames << PAGE_SHIFT) - 1:#x} of {whose}"


def _bytes(size: int) -> str:
    return f"{size} byte{'' if size == 1 else 's'}"


def _fields(fields: dict[str, object]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    """A field of a step or call; integers above 9 are in hexadecimal."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return f"{type(value).__name__}({_fields(value._asdict())})"
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, int) and not isinstance(value, bool):
        return number_text(int(value))
    if isinstance(value, bytes):
        return value.hex() or "empty"
    # The default text of an object contains its address, which differs between runs.
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else str(value)
