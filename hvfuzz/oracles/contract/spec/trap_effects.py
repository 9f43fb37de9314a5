"""Changes of the abstract state by VM exits other than hypercalls: vCPUs halt and stop, polls end, clocks are read.

Any other change without a call is a mismatch: no load, store, page-table edit, trapped instruction or DMA transfers a
frame or opens a port.
"""

from __future__ import annotations

from hvfuzz.oracles.contract.spec.calls.event import set_run
from hvfuzz.oracles.contract.spec.calls.sched import event_pending
from hvfuzz.oracles.contract.spec.calls.time import counter_read
from hvfuzz.oracles.contract.spec.cell_words import difference
from hvfuzz.oracles.contract.spec.cells import ClockWindow, Poll, RunState
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.undo_log import Key, Value
from hvfuzz.oracles.contract.spec.verdict import Mismatch


def judge_change(state: State, key: Key, actual: Value, cycles: int, operation: str) -> Mismatch | None:
    """Judge a cell that changed without a call. Its value is `actual` at clock `cycles`; None if it does not exist.

    Applies an allowed change, the end of a poll, to `state`. `operation` goes into the Mismatch.
    """
    expected = state.get(key)
    if actual == expected:
        return None
    if key[0] == "vcpu" and actual is not None and expected is not None:
        _, domain, vcpu = key
        if expected == RunState.POLLING and actual == RunState.RUNNABLE:
            poll: Poll | None = state.get(("poll", domain, vcpu))
            if poll is None or poll.deadline <= cycles:
                set_run(state, domain, vcpu, RunState.RUNNABLE)
                return None
    return Mismatch("change", operation, difference(key, actual, expected))


def count_read(state: State, domain: int, cycles: int) -> None:
    """Count a read of the time-stamp counter at clock `cycles` as a read of the domain's clock."""
    key = ("clock_window", domain)
    state[key] = counter_read(state.get(key) or ClockWindow(-1, 0), cycles).window


def wake(state: State, domain: int, vcpu: int) -> None:
    """Make a halted vCPU runnable, because it can take an interrupt."""
    set_run(state, domain, vcpu, RunState.RUNNABLE)


def stop(state: State, domain: int, vcpu: int) -> None:
    """Stop a vCPU for ever, after a triple fault."""
    set_run(state, domain, vcpu, RunState.STOPPED)


def judge_halt(state: State, domain: int, vcpu: int, actual: int, interrupted: bool) -> Mismatch | None:
    """Judge HLT: the vCPU halts unless an event is pending or it can take an interrupt (`interrupted`).

    `actual` is its run state afterwards.
    """
    expected = RunState.RUNNABLE if interrupted or event_pending(state, domain) else RunState.HALTED
    if actual != expected:
        return Mismatch("change", "hlt", f"run state {RunState(actual).name} where the contract says {expected.name}")
    if state.get(("vcpu", domain, vcpu)) != expected:
        set_run(state, domain, vcpu, expected)
    return None
