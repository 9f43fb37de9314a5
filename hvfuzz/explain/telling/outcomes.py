"""How an op ended, in words."""

from __future__ import annotations

from hvfuzz.abi.status import Status
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.machine.cpu.faults import Vector

ONE_DIGIT = 10
"""Numbers below it are the same in hexadecimal."""


def outcome_text(outcome: Outcome) -> str:
    """The outcome of an op: the status of a call with its result, or the exception that the guest got."""
    match outcome.how:
        case Result.FAULT:
            return f"the guest gets #{Vector(outcome.status).name}, error code {number_text(outcome.result)}"
        case Result.SKIPPED:
            return "skipped: its vCPU waits, or it could not be prepared"
        case Result.HOST_DOWN:
            return "the host stops"
    return f"{status_name(outcome.status)}, result {number_text(outcome.result)}"


def status_name(status: int) -> str:
    """The name of a status of the contract."""
    return Status(status).name if status in Status._value2member_map_ else f"status {status}"


def number_text(number: int) -> str:
    """A number, in hexadecimal if it has more than one digit."""
    return str(number) if number < ONE_DIGIT else hex(number)
