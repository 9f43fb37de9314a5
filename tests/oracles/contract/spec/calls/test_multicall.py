"""A multicall runs what its entries say, and tells the guest how each ended."""

from typing import Any

import pytest

from hvfuzz.abi.status import Status
from hvfuzz.oracles.contract.spec import Nested, Observed
from hvfuzz.oracles.contract.spec.calls.multicall import NO_NUMBER

GVA = 0xFFFF_8800_0001_0400
YIELD, KICK, MULTICALL = 0x40, 0x42, 0x70


def entries(bench: Any, *numbers: int) -> Any:
    """The call, with the entries as fetched."""
    data = b"".join(bench.words(number, 0x1000, 7, 7) for number in numbers)
    return bench.call("multicall", entries=GVA, count=len(numbers), fetched=[(GVA, data)])


def outcomes(bench: Any, *ends: tuple[int, int]) -> tuple[tuple[int, bytes], ...]:
    """The write-backs."""
    return tuple((GVA + 32 * at + 16, bench.words(status % 2**64, result)) for at, (status, result) in enumerate(ends))


def rule(bench: Any, call: Any, observed: Observed) -> str | None:
    mismatch = bench.judge(call, observed)
    assert bench.state.written == []
    return None if mismatch is None else mismatch.rule


def test_result_is_the_number_that_ended_well(bench: Any) -> None:
    call = entries(bench, YIELD, KICK, MULTICALL, 0x999, KICK)
    unknown = Nested(NO_NUMBER, Status.NO_CALL, 0)
    ran = (Nested(YIELD, 0, 0), Nested(KICK, Status.INVALID, 0), unknown, Nested(KICK, 0, 1))
    written = outcomes(bench, (0, 0), (Status.INVALID, 0), (Status.INVALID, 0), (Status.NO_CALL, 0), (0, 1))
    assert rule(bench, call, Observed(0, 2, written, nested=ran)) is None
    assert rule(bench, call, Observed(0, 3, written, nested=ran)) == "result"
    assert rule(bench, call, Observed(Status.FAULT, 0, written, nested=ran)) == "status"


@pytest.mark.parametrize(
    ("number", "end", "nested"),
    [
        # It says OK, and nothing ran.
        (YIELD, (0, 0), ()),
        # It ran, and the guest is told something else.
        (KICK, (0, 1), (Nested(KICK, 0, 0),)),
        (KICK, (Status.INVALID, 0), (Nested(KICK, 0, 0),)),
        # Another call ran, or one more.
        (YIELD, (0, 0), (Nested(KICK, 0, 0),)),
        (YIELD, (0, 0), (Nested(YIELD, 0, 0), Nested(YIELD, 0, 0))),
        # Dispatch refuses otherwise.
        (MULTICALL, (Status.NO_CALL, 0), ()),
        (MULTICALL, (0, 0), (Nested(MULTICALL, 0, 0),)),
        (0x999, (Status.INVALID, 0), ()),
        (YIELD, (Status.NO_CALL, 0), ()),
        (YIELD, (Status.BUSY, 0), ()),
        (YIELD, (Status.FAULT, 1), ()),
        # Nobody made the call: dispatch never saw it.
        (YIELD, (Status.FAULT, 0), ()),
        (KICK, (Status.NO_CALL, 0), ()),
        (0x999, (Status.NO_CALL, 0), ()),
        (0x999, (Status.INVALID, 0), (Nested(NO_NUMBER, Status.INVALID, 0),)),
        (YIELD, (-99, 0), ()),
    ],
)
def test_outcome_that_cannot_be(bench: Any, number: int, end: tuple[int, int], nested: tuple[Nested, ...]) -> None:
    written = outcomes(bench, end)
    good = int(end[0] == 0)
    observed = Observed(0, good, written, nested=nested)
    assert rule(bench, entries(bench, number), observed) == "nested"


def test_writes_are_outcomes_in_order(bench: Any) -> None:
    call = entries(bench, YIELD, YIELD)
    ran = (Nested(YIELD, 0, 0),) * 2
    first, second = outcomes(bench, (0, 0), (0, 0))
    assert rule(bench, call, Observed(0, 2, (second, first), nested=ran)) == "written"
    assert rule(bench, call, Observed(0, 2, (first, second, first), nested=ran)) == "written"
    halves = ((first[0], first[1][:8]), (first[0] + 8, first[1][8:]), second)
    assert rule(bench, call, Observed(0, 2, halves, nested=ran)) is None


def test_array_that_goes_away_is_a_fault_and_the_calls_stay_done(bench: Any) -> None:
    call = entries(bench, YIELD, KICK, YIELD)
    (first,) = outcomes(bench, (0, 0))
    ran = (Nested(YIELD, 0, 0), Nested(KICK, 0, 0))
    assert rule(bench, call, Observed(Status.FAULT, 0, (first,), nested=ran)) is None
    assert rule(bench, call, Observed(Status.FAULT, 0, (first,), nested=ran[:1])) is None
    assert rule(bench, call, Observed(Status.FAULT)) is None
    assert rule(bench, call, Observed(0, 1, (first,), nested=ran)) == "status"
    went_on = (*ran, Nested(YIELD, 0, 0))
    assert rule(bench, call, Observed(Status.FAULT, 0, (first,), nested=went_on)) == "nested"
