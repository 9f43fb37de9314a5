"""How what the guest chose led to the address, index or length with which a rule was broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hvfuzz.explain.recording.recorded_moments import Call, Copy, OpBegins, Recording, Step
from hvfuzz.explain.recording.subjects import subjects_of
from hvfuzz.oracles.contract.spec.cell_words import number
from hvfuzz.oracles.framework.finding import Finding

_NAME: Final = re.compile(r"[a-z_]+")
MOST: Final = 3
"""Origins that are told: the last ones before the rule was broken."""


def operands_of(recording: Recording, finding: Finding, at: int) -> tuple[str, ...]:
    """Lines such as "gva 0x1000 is out + 8 * start, with out = 0x0 and start = 0x200"; none if nothing is known.

    A copy at an address that the finding names comes alone; otherwise what the steps before place `at` were given.
    """
    subjects = subjects_of(finding.message)
    copies: dict[str, None] = {}
    steps: dict[str, None] = {}
    call: Call | None = None
    for moment in _of_op(recording, finding.op, at):
        match moment:
            case Call():
                call = moment
            case Copy() if moment.origin and call is not None and moment.gva in subjects.gvas:
                copies[f"gva {moment.gva:#x} is {moment.origin}{_with(moment.origin, call)}"] = None
            case Step() if call is not None:
                for name, origin in moment.origins.items():
                    if origin != name:  # else the operand itself
                        value = number(moment.fields[name])
                        steps[f"{name} {value} is {origin}{_with(origin, call)}"] = None
    return tuple(copies or steps)[-MOST:]


def _of_op(recording: Recording, op: int, at: int) -> Iterator[object]:
    """The moments of op number `op` before place `at`."""
    inside = False
    for moment in recording.moments[:at]:
        if isinstance(moment, OpBegins):
            inside = moment.number == op
        if inside:
            yield moment


def _with(origin: str, call: Call) -> str:
    """The values of the operands in `origin`, as the guest passed them."""
    values = call.values or {}
    named = [name for name in dict.fromkeys(_NAME.findall(origin)) if name in values]
    text = " and ".join(f"{name} = {number(values[name])}" for name in named)
    return f", with {text} in {call.name}" if text else ""
