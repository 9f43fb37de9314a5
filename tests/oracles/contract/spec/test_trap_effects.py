"""What may change without a call: polls that run out of time, vCPUs that halt."""

from typing import Any

import pytest

from hvfuzz.oracles.contract.spec import Page, RunState, judge_change, judge_halt

GVA = 0xFFFF_8800_0001_0400


@pytest.fixture
def polling(bench: Any) -> Any:
    """vCPU 1 of domain 1 polls until the second tick begins, at cycle 16384."""
    bench.run("event.alloc", remote=2)
    fetched = [(GVA, bench.words(0, width=4))]
    bench.run("sched.poll", cpu=1, ports=GVA, count=1, timeout=50, fetched=fetched, cycles=100)
    return bench


def test_poll_ends_when_its_time_is_over(polling: Any) -> None:
    key = ("vcpu", 1, 1)
    assert judge_change(polling.state, key, RunState.RUNNABLE, 16383, "load") is not None
    assert polling.state[key] == RunState.POLLING
    assert judge_change(polling.state, key, RunState.RUNNABLE, 16384, "load") is None
    assert polling.state[key] == RunState.RUNNABLE
    assert ("poll", 1, 1) not in polling.state


@pytest.mark.parametrize(
    ("key", "actual"),
    [
        (("vcpu", 1, 0), RunState.BLOCKED),
        (("vcpu", 1, 0), None),
        (("vcpu", 1, 7), RunState.RUNNABLE),
        (("version", 1), 1),
        (("page", 1, 5), None),
        (("page", 1, 0x100), Page(5, 7, False)),
    ],
)
def test_nothing_else_changes(bench: Any, key: Any, actual: Any) -> None:
    before = dict(bench.state.cells)
    mismatch = judge_change(bench.state, key, actual, 0, "store")
    assert mismatch is not None
    assert (mismatch.rule, mismatch.operation) == ("change", "store")
    assert bench.state.cells == before


def test_a_cell_as_it_should_be_is_no_change(bench: Any) -> None:
    assert judge_change(bench.state, ("version", 1), 2, 0, "store") is None
    assert judge_change(bench.state, ("page", 1, 0x100), None, 0, "store") is None


def test_halt_waits_for_an_event(bench: Any) -> None:
    assert judge_halt(bench.state, 1, 0, RunState.RUNNABLE, False) is not None
    assert judge_halt(bench.state, 1, 0, RunState.HALTED, False) is None
    assert bench.state["vcpu", 1, 0] == RunState.HALTED
    # The other vCPU executed nothing.
    assert judge_change(bench.state, ("vcpu", 1, 1), RunState.HALTED, 0, "hlt") is not None


def test_halt_goes_on_with_an_event_pending(polling: Any) -> None:
    polling.run("event.bind", caller=2, remote=1, port=0)
    polling.run("event.send", caller=2, port=0)
    assert judge_halt(polling.state, 1, 0, RunState.HALTED, False) is not None
    assert judge_change(polling.state, ("vcpu", 1, 0), RunState.HALTED, 0, "hlt") is not None
    assert judge_halt(polling.state, 1, 0, RunState.RUNNABLE, False) is None
