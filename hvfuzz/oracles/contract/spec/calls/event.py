"""The rules of family `event`, and the run states of vCPUs that wait for events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from hvfuzz.abi import limits
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import Hfn
from hvfuzz.oracles.contract.spec.blocks import numbered
from hvfuzz.oracles.contract.spec.cells import HOST_FRAME, Poll, Port, PortState, RunState
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Expected

WAITING_FOR_ANY: Final = (RunState.BLOCKED, RunState.HALTED)
"""Run states that an event on any port of the domain ends."""


def new_port(state: State, domain: int, evidence: Evidence) -> tuple[int, bool] | Status:
    """The number of the domain's next port, and whether it needs a new bucket; or why there is none."""
    port = state.lowest_free("port", domain, limits.PORTS)
    if port is None:
        return Status.LIMIT
    bucket = ("bucket", domain, port // limits.PORTS_PER_BUCKET)
    if bucket in state:
        return port, False
    return (port, True) if state.free() and not evidence.denies(1) else Status.NO_MEMORY


def add_port(state: State, domain: int, number: int, port: Port, fresh: tuple[Hfn, ...]) -> None:
    """Allocate a port; `fresh` is the page of its bucket if that is new."""
    if fresh:
        state.allot(HOST_FRAME, fresh)
        state[("bucket", domain, number // limits.PORTS_PER_BUCKET)] = fresh[0]
    state[("port", domain, number)] = port


def alloc(state: State, call: Call, evidence: Evidence) -> Expected:
    """Allocate a port that waits for `remote` to bind it."""
    remote = state.resolve(call.caller, call.args.remote)
    if remote is None:
        return Status.NO_DOMAIN
    new = new_port(state, call.caller, evidence)
    if isinstance(new, Status):
        return new
    number, bucket = new

    def effect(fresh: tuple[Hfn, ...]) -> None:
        port = Port(PortState.UNBOUND, remote, 0, pending=False)
        add_port(state, call.caller, number, port, fresh)

    return Accept(number, effect, fresh=int(bucket))


def bind(state: State, call: Call, evidence: Evidence) -> Expected:
    """Connect a new port to a port of `remote` that waits for the caller."""
    args, caller = call.args, call.caller
    remote = state.resolve(caller, args.remote)
    if remote is None:
        return Status.NO_DOMAIN
    key = ("port", remote, args.port)
    waiting: Port | None = state.get(key)
    if waiting is None or waiting.state is not PortState.UNBOUND or waiting.remote != caller:
        return Status.NO_PORT
    new = new_port(state, caller, evidence)
    if isinstance(new, Status):
        return new
    number, bucket = new

    def effect(fresh: tuple[Hfn, ...]) -> None:
        local = Port(PortState.CONNECTED, remote, args.port, pending=False)
        add_port(state, caller, number, local, fresh)
        state[key] = Port(PortState.CONNECTED, caller, number, waiting.pending)

    return Accept(number, effect, fresh=int(bucket))


def vcpus(state: State, domain: int) -> Iterator[tuple[int, RunState]]:
    """The vCPUs of a domain, lowest number first, with their run states."""
    index = 0
    while (run := state.get(("vcpu", domain, index))) is not None:
        yield index, run
        index += 1


def polls(state: State, domain: int, vcpu: int, port: int) -> bool:
    """Whether a polling vCPU polls the port."""
    poll: Poll | None = state.get(("poll", domain, vcpu))
    return poll is not None and port in poll.ports


def set_run(state: State, domain: int, vcpu: int, run: RunState, poll: Poll | None = None) -> None:
    """Set the run state of a vCPU, and its poll, which ends if none is given."""
    state[("vcpu", domain, vcpu)] = run
    key = ("poll", domain, vcpu)
    if poll is not None:
        state[key] = poll
    elif key in state:
        del state[key]


def raise_event(state: State, domain: int, number: int) -> None:
    """Set an allocated port pending; then wake the lowest-numbered vCPU for which the event ends waiting."""
    port: Port = state[("port", domain, number)]
    state[("port", domain, number)] = Port(port.state, port.remote, port.remote_port, pending=True)
    for vcpu, run in vcpus(state, domain):
        if run in WAITING_FOR_ANY or (run == RunState.POLLING and polls(state, domain, vcpu, number)):
            set_run(state, domain, vcpu, RunState.RUNNABLE)
            break


def send(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Set the peer pending, and wake one vCPU that waits for it."""
    port: Port | None = state.get(("port", call.caller, call.args.port))
    if port is None or port.state is not PortState.CONNECTED:
        return Status.NO_PORT
    domain, number = port.remote, port.remote_port

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        raise_event(state, domain, number)

    return Accept(effect=effect)


def close(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Free the port. Its peer waits for the caller again; vCPUs that poll the port become runnable."""
    caller, number = call.caller, call.args.port
    port: Port | None = state.get(("port", caller, number))
    if port is None:
        return Status.NO_PORT

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        del state[("port", caller, number)]
        if port.state is PortState.CONNECTED:
            peer = ("port", port.remote, port.remote_port)
            pending = state[peer].pending
            state[peer] = Port(PortState.UNBOUND, caller, 0, pending)
        for vcpu, run in vcpus(state, caller):
            if run == RunState.POLLING and polls(state, caller, vcpu, number):
                set_run(state, caller, vcpu, RunState.RUNNABLE)
        free_bucket(state, caller, number // limits.PORTS_PER_BUCKET)

    return Accept(effect=effect)


def free_bucket(state: State, domain: int, bucket: int) -> None:
    """Free the page of a bucket if no port in it is allocated."""
    first = bucket * limits.PORTS_PER_BUCKET
    ports = numbered("port", domain, limits.PORTS)[first : first + limits.PORTS_PER_BUCKET]
    if state.cells.keys().isdisjoint(ports):
        key = ("bucket", domain, bucket)
        state.release([state[key]])
        del state[key]


RULES: Final[Mapping[str, Rule]] = {"alloc": alloc, "bind": bind, "send": send, "close": close}
