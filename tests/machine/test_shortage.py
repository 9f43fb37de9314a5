"""A shortage: exactly one of the requests that are counted fails."""

import pytest

from hvfuzz.machine.shortage import NEVER, Shortage


def test_only_the_request_that_is_named_fails() -> None:
    shortage = Shortage()
    shortage.arm(2)
    assert [shortage.denies(1) for _ in range(5)] == [False, False, True, False, False]


@pytest.mark.parametrize(("request_number", "denied"), [(0, [True, False]), (3, [True, False]), (4, [False, True])])
def test_pieces_that_are_asked_for_at_once_fail_at_once(request_number: int, denied: list[bool]) -> None:
    shortage = Shortage()
    shortage.arm(request_number)
    assert [shortage.denies(4), shortage.denies(2)] == denied
    assert shortage.requests == 6


def test_it_counts_from_when_it_is_armed_and_ends_when_it_is_disarmed() -> None:
    shortage = Shortage()
    shortage.arm(1)
    assert not shortage.denies(1)
    shortage.arm(1)
    assert [shortage.denies(1), shortage.denies(1)] == [False, True]
    shortage.arm(0)
    shortage.disarm()
    assert shortage.at == NEVER
    assert not shortage.denies(1)


def test_what_waits_is_armed_for_one_op() -> None:
    shortage = Shortage()
    shortage.waiting = 1
    assert not shortage.denies(4)
    shortage.op_ended()
    assert (shortage.at, shortage.waiting) == (5, NEVER)
    shortage.waiting = 0
    shortage.op_ended()
    assert shortage.denies(1)
    shortage.op_ended()
    assert shortage.at == NEVER


def test_a_request_for_nothing_never_fails() -> None:
    shortage = Shortage()
    shortage.arm(0)
    assert not shortage.denies(0)
    assert shortage.denies(1)
