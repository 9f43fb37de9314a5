"""The rules of family `console`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hvfuzz.abi.limits import CONSOLE
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import Hfn
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Expected


def write(state: State, call: Call, evidence: Evidence) -> Expected:
    """Append the bytes to the console, which keeps the last 256."""
    length = call.args.length
    if length > CONSOLE:
        return Status.INVALID
    text = evidence.take(call.args.text, length)
    if text is None:
        return Status.FAULT
    key = ("console", call.caller)

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        if text:
            state[key] = (state.get(key) or b"")[-CONSOLE:] + text
            state[key] = state[key][-CONSOLE:]

    return Accept(length, effect)


RULES: Final[Mapping[str, Rule]] = {"write": write}
