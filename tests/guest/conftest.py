"""Fixtures of the guest tests: a small ABI, the real one, and a strategy of well-formed programs."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hypothesis import strategies as st

from hvfuzz.abi.boot import WORLDS
from hvfuzz.abi.declaration import Since, hypercall
from hvfuzz.abi.device_models import COALESCED, FDC, IOAPIC, TIMER, UART
from hvfuzz.abi.kinds import (
    CallEntries,
    Count,
    DmaRing,
    DomainRef,
    Flags,
    FrameOrRef,
    GfnArg,
    GfnArray,
    GrantRefArg,
    HandleArg,
    IovaArg,
    Kind,
    Length,
    PortArg,
    PortArray,
    Rights,
    Timeout,
)
from hvfuzz.abi.registry import Abi
from hvfuzz.guest.program.ops import Catalogue, OpKind, catalogue
from hvfuzz.guest.program.program import (
    MAX_ELEMENTS,
    MAX_POINT,
    Actor,
    Mangle,
    Op,
    Program,
    Race,
    Ref,
    Value,
    is_array,
    points_of,
)
from hvfuzz.hypervisor.hypercalls import ABI

Sides = Annotated[int, Flags("HOST", "DEVICE", "READONLY")]
References = Annotated[int, Flags("SOURCE_REF", "DEST_REF")]


class _NoCheck:
    __slots__ = ()

    def check(self, hv: Any, caller: Any, vcpu: Any) -> Any:
        raise NotImplementedError


@hypercall(0x10, name="memory.populate")
class Populate(_NoCheck):
    """Fresh frames."""

    first: GfnArg
    count: Count
    flags: Annotated[int, Flags("TOP_DOWN"), Since(2)] = 0


@hypercall(0x13, name="memory.exchange", since=2)
class Exchange(_NoCheck):
    """Swap frames."""

    gfns: GfnArray
    count: Count


@hypercall(0x20, name="grant.create", produces="grant_ref")
class Create(_NoCheck):
    """Let a domain map a frame."""

    gfn: GfnArg
    to: DomainRef
    rights: Rights


@hypercall(0x21, name="grant.revoke")
class Revoke(_NoCheck):
    """End a grant."""

    ref: GrantRefArg


@hypercall(0x22, name="grant.map", produces="handle")
class Map(_NoCheck):
    """Map a granted frame."""

    granter: DomainRef
    ref: GrantRefArg
    gfn: GfnArg
    iova: IovaArg
    flags: Sides


@hypercall(0x23, name="grant.unmap", long=True)
class Unmap(_NoCheck):
    """Unmap granted frames."""

    handle: HandleArg
    count: Count
    flags: Sides


@hypercall(0x24, name="grant.copy")
class Copy(_NoCheck):
    """Copy between frames."""

    flags: References
    from_domain: DomainRef
    to_domain: DomainRef
    from_: FrameOrRef
    to: FrameOrRef


@hypercall(0x30, name="event.alloc", produces="port")
class Alloc(_NoCheck):
    """A port for a domain to bind."""

    remote: DomainRef


@hypercall(0x31, name="event.bind", produces="port")
class Bind(_NoCheck):
    """Connect to a port."""

    remote: DomainRef
    port: PortArg


@hypercall(0x43, name="sched.poll")
class Poll(_NoCheck):
    """Wait for ports."""

    ports: PortArray
    count: Count
    timeout: Timeout


@hypercall(0x40, name="sched.yield")
class Yield(_NoCheck):
    """Give up the processor."""


@hypercall(0x61, name="device.deassign", privileged=True)
class Deassign(_NoCheck):
    """Take a device away."""

    device: Annotated[int, Kind("device", 2, (0, 1, 2))]


@hypercall(0x65, name="device.dma_batch", since=2)
class DmaBatch(_NoCheck):
    """Several transfers."""

    ring: DmaRing
    length: Length


@hypercall(0x70, name="multicall")
class Multicall(_NoCheck):
    """Several calls."""

    entries: CallEntries
    count: Count


OWN = Abi(
    (Populate, Exchange, Create, Revoke, Map, Unmap, Copy, Alloc, Bind, Poll, Yield, Deassign, DmaBatch, Multicall),
    device_models=(UART, FDC, IOAPIC, TIMER, COALESCED),
)


@pytest.fixture(scope="session")
def own() -> Catalogue:
    """The kinds of ops over the ABI of this file."""
    return catalogue(OWN)


@pytest.fixture(scope="session", params=[pytest.param(OWN, id="own"), pytest.param(ABI, id="real")])
def known(request: pytest.FixtureRequest) -> Catalogue:
    """The kinds of ops over the ABI of this file, then over the real one."""
    return catalogue(request.param)


@pytest.fixture(scope="session")
def programs(known: Catalogue) -> st.SearchStrategy[Program]:
    """Any well-formed program, drawn value by value, without the generator."""
    return _programs(known)


@st.composite
def _programs(draw: st.DrawFn, known: Catalogue) -> Program:
    world = draw(st.integers(0, len(WORLDS) - 1))
    length = draw(st.integers(0, 8))
    ops: list[Op] = []
    for index in range(length):
        kind = draw(st.sampled_from(known.kinds))
        op = draw(_ops(kind, world, index))
        if points_of(kind) and draw(st.integers(0, 3)) == 0:
            other = draw(st.sampled_from(known.kinds))
            number, point = draw(st.integers(0, MAX_POINT)), draw(st.sampled_from(points_of(kind)))
            op = op._replace(race=Race(number, draw(_ops(other, world, index)), point))
        ops.append(op)
    return Program(world, tuple(ops))


@st.composite
def _ops(draw: st.DrawFn, kind: OpKind, world: int, index: int) -> Op:
    domain = draw(st.integers(0, len(WORLDS[world].domains) - 1))
    vcpu = draw(st.integers(0, WORLDS[world].domains[domain].vcpus - 1))
    values = tuple(draw(_values(field.kind, index)) for field in kind.fields)
    mangle = None
    if kind.number is not None and draw(st.integers(0, 3)) == 0:
        parts = [draw(st.none() | st.integers(0, (1 << bits) - 1)) for bits in (16, 16, 64, 32)]
        mangle = Mangle(*parts) if any(part is not None for part in parts) else None
    return Op(kind, Actor(domain, vcpu), values, mangle)


def _values(kind: Kind, index: int) -> st.SearchStrategy[Value]:
    numbers = st.integers(0, kind.maximum)
    if kind.edges:
        numbers |= st.sampled_from(kind.edges)
    if is_array(kind):
        elements = [_values(kind.element_at(place), index) for place in range(MAX_ELEMENTS)]
        arrays = st.integers(0, MAX_ELEMENTS).flatmap(lambda length: st.tuples(*elements[:length]))
        return numbers | arrays
    if kind.consumes is not None and index:
        return numbers | st.integers(0, index - 1).map(Ref)
    return numbers


@pytest.fixture
def calls_of() -> Callable[[Callable[[], object]], int]:
    """calls_of(work) returns how many Python functions work() calls: a measure that no load of the machine changes."""

    def counted(work: Callable[[], object]) -> int:
        calls = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            work()
        finally:
            sys.setprofile(before)
        return calls

    return counted
