"""The executable specification: what each hypercall may answer and must change, from the contract alone.

    state = State(frames, cells)                  the abstract state, filled from the machine by whoever asks
    judge(state, call, observed)                  a finished hypercall: a Mismatch, or its effect on the state
    judge_dispatch(version, cpl, number, ...)     how dispatch must refuse a call, if it must
    judge_change(state, key, actual, ...)         a cell that changed though no call's effect says so
    judge_halt(state, domain, vcpu, actual, ...)  a HLT
    wake(state, domain, vcpu)                     an interrupt ends a HLT
    stop(state, domain, vcpu)                     a triple fault
    count_read(state, domain, cycles)             a read of the time-stamp counter

Nothing here may import the hypervisor: an oracle that shares code with its subject shares its bugs.
"""

from hvfuzz.oracles.contract.spec.blocks import Block, frame_block, page_block, page_keys
from hvfuzz.oracles.contract.spec.cells import (
    HOST_FRAME,
    HYPERVISOR,
    ClockWindow,
    Frame,
    Grant,
    Handle,
    IoPage,
    Page,
    Poll,
    Port,
    PortState,
    RunState,
)
from hvfuzz.oracles.contract.spec.dispatch import BY_NAME, BY_NUMBER, CALLS, arguments, decode, judge_dispatch
from hvfuzz.oracles.contract.spec.journal import Key, Value
from hvfuzz.oracles.contract.spec.judge import SPEC, TARGETS, expect, judge
from hvfuzz.oracles.contract.spec.ranges import valid_range
from hvfuzz.oracles.contract.spec.state import FREE, GHOSTS, State
from hvfuzz.oracles.contract.spec.trap_effects import count_read, judge_change, judge_halt, stop, wake
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Mismatch, Nested, Observed, Tables

__all__ = [
    "BY_NAME",
    "BY_NUMBER",
    "CALLS",
    "FREE",
    "GHOSTS",
    "HOST_FRAME",
    "HYPERVISOR",
    "SPEC",
    "TARGETS",
    "Accept",
    "Block",
    "Call",
    "ClockWindow",
    "Frame",
    "Grant",
    "Handle",
    "IoPage",
    "Key",
    "Mismatch",
    "Nested",
    "Observed",
    "Page",
    "Poll",
    "Port",
    "PortState",
    "RunState",
    "State",
    "Tables",
    "Value",
    "arguments",
    "count_read",
    "decode",
    "expect",
    "frame_block",
    "judge",
    "judge_change",
    "judge_dispatch",
    "judge_halt",
    "page_block",
    "page_keys",
    "stop",
    "valid_range",
    "wake",
]
