"""The rules of family `sched`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hvfuzz.abi import limits
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import Hfn
from hvfuzz.oracles.contract.spec.blocks import numbered
from hvfuzz.oracles.contract.spec.calls.event import set_run
from hvfuzz.oracles.contract.spec.cells import Poll, Port, RunState
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import DONE, Accept, Call, Expected, Mismatch

PORT_WIDTH: Final = 4


def yield_(_state: State, call: Call, evidence: Evidence) -> Expected:
    """Let one time slice pass, and no more: the call's own work takes less than a grain of the clock."""
    end = evidence.observed.cycles
    passed = end - call.cycles - limits.TIME_SLICE
    if evidence.observed.status == Status.OK and not 0 <= passed < limits.CLOCK_GRAIN:
        return Mismatch("time", call.name, f"the clock went from {call.cycles} to {end}")
    return DONE


def event_pending(state: State, domain: int) -> bool:
    """Whether a port of the domain is pending."""
    for bucket in range(limits.BUCKETS):
        if ("bucket", domain, bucket) in state.cells:
            first = bucket * limits.PORTS_PER_BUCKET
            ports = numbered("port", domain, limits.PORTS)[first : first + limits.PORTS_PER_BUCKET]
            port: Port | None
            for port in map(state.get, ports):
                if port is not None and port.pending:
                    return True
    return False


def block(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Block the vCPU, unless an event of its domain is pending."""
    if event_pending(state, call.caller):
        return Status.AGAIN

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        set_run(state, call.caller, call.vcpu, RunState.BLOCKED)

    return Accept(effect=effect)


def kick(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Make a waiting vCPU of the caller runnable."""
    vcpu = call.args.vcpu
    run: RunState | None = state.get(("vcpu", call.caller, vcpu))
    if run is None:
        return Status.INVALID
    if run in (RunState.RUNNABLE, RunState.STOPPED):
        return Accept(0)

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        set_run(state, call.caller, vcpu, RunState.RUNNABLE)

    return Accept(1, effect)


def time_out(cycles: int, timeout: int) -> int:
    """The cycle at which a time-out that is set at `cycles` is over: the beginning of a tick."""
    ticks = cycles // limits.CLOCK_TICK + (timeout + limits.CLOCK_TICK - 1) // limits.CLOCK_TICK
    return ticks * limits.CLOCK_TICK


def poll(state: State, call: Call, evidence: Evidence) -> Expected:
    """Let the vCPU poll the listed ports, unless one of them is pending."""
    args, caller = call.args, call.caller
    if not 0 < args.count <= limits.POLL:
        return Status.INVALID
    ports = evidence.words(args.ports, args.count, PORT_WIDTH)
    if ports is None:
        return Status.FAULT
    pending = None
    for index, number in enumerate(ports):
        port: Port | None = state.get(("port", caller, number))
        if port is None:
            return Status.NO_PORT
        if port.pending and pending is None:
            pending = index
    if pending is not None:
        return Accept(1 + pending)
    if args.timeout == 0:
        return Status.AGAIN

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        first, last = call.cycles, max(evidence.observed.cycles, call.cycles)
        wait = Poll(tuple(ports), time_out(first, args.timeout), time_out(last, args.timeout))
        set_run(state, caller, call.vcpu, RunState.POLLING, wait)

    return Accept(effect=effect)


RULES: Final[Mapping[str, Rule]] = {"yield": yield_, "block": block, "kick": kick, "poll": poll}
