"""The executable specification of the ABI: which outcomes of a hypercall are allowed, and what the call changes.

It is written from ABI.md and keeps an abstract state, to which it applies what it is told about the machine:

    state = State(frames, cells)                  the abstract state, with the cells of the booted machine
    judge_dispatch(version, cpl, number, ...)     a call's header and struct: the status that must refuse it, or None
    decode(number, header, body)                  the arguments of a call that passed dispatch
    judge(state, call, observed)                  a finished call: a Mismatch, or None and its effect on the state
    judge_change(state, key, actual, ...)         a cell that changed without a call: a Mismatch, or None
    judge_halt(state, domain, vcpu, actual, ...)  HLT: a Mismatch, or None and its effect on the state
    wake(state, domain, vcpu)                     an interrupt ends HLT
    stop(state, domain, vcpu)                     a triple fault
    count_read(state, domain, cycles)             a read of the time-stamp counter
    expired(state, domain, port)                  the event of a domain's timer

The modules, from the bottom up: `cells` (the cells and their values), `blocks` (2 MiB of cells at once), `journal` and
`state` (the abstract state), `verdict` and `evidence` (what a rule is told, and what it returns), `calls` (the rules, a
module for each family of calls), `dispatch` and `judge` (the judgement of a call), `trap_effects` (VM exits other than
hypercalls), `platform` (models of the local APIC, CPUID, MSRs and timer, which the oracle `exits` uses directly).

Nothing here may import the hypervisor: an oracle that shares code with its subject shares its bugs.
"""

from hvfuzz.oracles.contract.spec.blocks import Block, frame_block, page_block, page_keys
from hvfuzz.oracles.contract.spec.calls.event import set_run
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
from hvfuzz.oracles.contract.spec.judge import SPEC, TARGETS, expect, judge
from hvfuzz.oracles.contract.spec.platform.timer import expired
from hvfuzz.oracles.contract.spec.ranges import valid_range
from hvfuzz.oracles.contract.spec.state import FREE, GHOSTS, State
from hvfuzz.oracles.contract.spec.trap_effects import count_read, judge_change, judge_halt, stop, wake
from hvfuzz.oracles.contract.spec.undo_log import Key, Value
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
    "expired",
    "frame_block",
    "judge",
    "judge_change",
    "judge_dispatch",
    "judge_halt",
    "page_block",
    "page_keys",
    "set_run",
    "stop",
    "valid_range",
    "wake",
]
