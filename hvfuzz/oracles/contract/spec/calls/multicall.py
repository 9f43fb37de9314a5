"""The rule of `multicall`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hvfuzz.abi import limits
from hvfuzz.abi.status import Status
from hvfuzz.oracles.contract.spec.dispatch import BY_NUMBER, MULTICALL
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Expected, Mismatch, Nested

ENTRY_WORDS: Final = 4
ENTRY_SIZE: Final = 8 * ENTRY_WORDS
OUTCOME: Final = 16
"""Offset in an entry of its outcome, the words of status and result; and the size of the outcome."""
NO_NUMBER: Final = -1
"""Sentinel: an unknown call number."""


def multicall(_state: State, call: Call, evidence: Evidence) -> Expected:
    """Run the calls of all entries in order. The result is the number of calls that succeeded.

    The calls themselves were judged one by one. This rule judges whether the calls that ran are those in the fetched
    entries, and whether their outcomes were written to the entries.
    """
    args, observed = call.args, evidence.observed
    if not 0 < args.count <= limits.MULTICALL:
        return Status.INVALID
    entries = evidence.words(args.entries, ENTRY_WORDS * args.count)
    if entries is None or not evidence.writable(*outcome_range(args)):
        if observed.nested:
            return Mismatch("nested", call.name, f"calls from an array that is not accessible: {observed.nested}")
        return Status.FAULT
    evidence.writes_judged = True
    numbers = entries[::ENTRY_WORDS]
    written = Evidence(observed.written, observed)
    ran = list(observed.nested)
    good = done = 0
    for number in numbers:
        place = args.entries + ENTRY_SIZE * done + OUTCOME
        before = len(written.left_over)
        outcome = written.words(place, 2)
        if outcome is None:
            if len(written.left_over) < before:
                return Mismatch("written", call.name, f"half of the outcome of entry {done}")
            break
        status = Status.from_word(outcome[0])
        wrong = _entry(number, status, outcome[1], ran)
        if wrong:
            return Mismatch("nested", call.name, f"entry {done}, call {number:#x}: {wrong}")
        good += status is Status.OK
        done += 1
    if written.left_over:
        return Mismatch("written", call.name, f"{len(written.left_over)} writes that are not the outcome of an entry")
    if done < args.count:
        # If nothing ran, the array as a whole may have been refused.
        missing = (place, OUTCOME) if done or ran else outcome_range(args)
        if observed.status == Status.FAULT and evidence.writable_still(*missing):
            return Mismatch("status", call.name, f"FAULT, but the outcome of entry {done} is writable")
        return _cut_short(call, numbers[done], ran)
    if ran:
        return Mismatch("nested", call.name, f"calls that are in no entry: {ran}")
    # Every outcome was written, so no write can have failed.
    evidence.all_written()
    return Accept(good)


def _entry(number: int, status: Status | None, result: int, ran: list[Nested]) -> str | None:
    """Why the outcome of one entry is wrong; None if it is right. Removes the entry's call from `ran`."""
    if status is None:
        return "unknown status"
    if number == MULTICALL:
        return None if status is Status.INVALID and not result else f"{status.name} for a nested multicall"
    if not ran or ran[0] != (_known(number), status, result):
        return f"{status.name} with result {result:#x}, but no such call ran"
    del ran[0]
    if number not in BY_NUMBER and (status is not Status.NO_CALL or result):
        return f"{status.name} for an unknown call"
    return None


def _known(number: int) -> int:
    """The number with which a call that ran is observed."""
    return number if number in BY_NUMBER else NO_NUMBER


def _cut_short(call: Call, number: int, ran: list[Nested]) -> Expected:
    """Judge the end after an outcome could not be written: the calls up to this entry's stay done."""
    if len(ran) > 1 or (ran and ran[0].number != _known(number)):
        return Mismatch("nested", call.name, f"calls that are in no entry, or ran after a fault: {ran}")
    return Status.FAULT


def outcome_range(args: Any) -> tuple[int, int]:
    """The range (gva, size) of the array, which must be writable; empty if the count is invalid."""
    return (args.entries, ENTRY_SIZE * args.count) if 0 < args.count <= limits.MULTICALL else (0, 0)


RULES: Final[Mapping[str, Rule]] = {"": multicall}
