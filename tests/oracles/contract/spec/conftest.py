"""A small booted world in the abstract, and a hypervisor that does exactly what the specification says."""

from collections.abc import Sequence
from typing import Any

import pytest

from hvfuzz.abi.limits import TIME_SLICE
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import Hfn
from hvfuzz.oracles.contract.spec import (
    BY_NAME,
    FREE,
    HOST_FRAME,
    Accept,
    Call,
    Frame,
    Key,
    Mismatch,
    Observed,
    Page,
    RunState,
    State,
    Value,
    expect,
    judge,
)

FRAMES = 4096
HOST = 64
"""The first frames are the hypervisor's."""
RAM = 64
"""Each domain starts with as many pages, at guest frames 0 on."""
GVA = 0xFFFF_8800_0001_0400


def boot_cells(frames: int) -> dict[Key, Value]:
    """Three domains: 0 has one vCPU, 1 has device 0."""
    cells: dict[Key, Value] = {("device", 0): 1}
    for domain in range(3):
        cells[("version", domain)] = 2
        cells[("pool", domain)] = 16
        for vcpu in range(2 if domain else 1):
            cells[("vcpu", domain, vcpu)] = RunState.RUNNABLE
        for gfn in range(RAM):
            hfn = HOST + domain * RAM + gfn
            cells[("page", domain, gfn)] = Page(hfn, 7, foreign=False)
            cells[("frame", hfn)] = Frame(domain, 1, 0, 0)
    for hfn in range(HOST):
        cells[("frame", hfn)] = HOST_FRAME
    cells[FREE] = frames - HOST - 3 * RAM
    return cells


def words(*values: int, width: int = 8) -> bytes:
    """Numbers as a guest lays them out."""
    return b"".join(value.to_bytes(width, "little") for value in values)


class Bench:
    """Makes calls on a state, as a correct hypervisor would."""

    Refused = Status

    def __init__(self, frames: int = FRAMES) -> None:
        self.state = State(frames, boot_cells(frames))
        self.gva = GVA

    words = staticmethod(words)

    def call(
        self,
        name: str,
        caller: int = 1,
        cpu: int = 0,
        fetched: Sequence[tuple[int, bytes]] = (),
        cycles: int = 0,
        **args: int,
    ) -> Call:
        """The call, with zero for every field that is not given."""
        make = BY_NAME[name].args
        values = make(*(args.pop(field, 0) for field in make._fields))
        assert not args, f"{name} has no {sorted(args)}"
        return Call(name, caller, cpu, values, tuple(fetched), cycles)

    def fresh(self, count: int, order: int = 0) -> tuple[Hfn, ...]:
        """Frames that a sound allocator could choose."""
        size, found = 1 << order, list[Hfn]()
        for first in range(0, self.state.frames, size):
            block = range(first, first + size)
            if len(found) < count and not any(("frame", hfn) in self.state for hfn in block):
                found += map(Hfn, block)
        assert len(found) == count
        return tuple(found)

    def observe(self, call: Call) -> Observed:
        """How the call ends on a sound hypervisor."""
        expected = expect(self.state, call)
        assert not isinstance(expected, Mismatch)
        if isinstance(expected, Status):
            return Observed(expected)
        fresh = self.fresh(expected.fresh, expected.order)
        written = () if expected.written is None else (expected.written,)
        end = call.cycles + (TIME_SLICE if call.name == "sched.yield" else 0)
        return Observed(Status.OK, expected.result, written, fresh, cycles=end, touched=expected.moved)

    def run(self, name: str, **given: Any) -> int | Status:
        """Make the call; its result, or the status that refused it, which has then changed nothing."""
        call = self.call(name, **given)
        observed = self.observe(call)
        if observed.status == Status.OK:
            assert judge(self.state, call, observed) is None
            return observed.result
        before = dict(self.state.cells)
        wrong = judge(self.state, call, Observed(Status.OK))
        assert wrong is not None
        assert judge(self.state, call, observed) is None
        assert self.state.written == []
        assert self.state.cells == before
        return Status(observed.status)

    def judge(self, call: Call, observed: Observed) -> Mismatch | None:
        return judge(self.state, call, observed)

    def accepts(self, call: Call) -> Accept:
        expected = expect(self.state, call)
        assert isinstance(expected, Accept)
        return expected

    def replace(self, key: Key, value: Value) -> None:
        """Set a cell as part of the preparation of a test; None makes it absent."""
        if value is None:
            del self.state[key]
        else:
            self.state[key] = value


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(scope="session")
def new_bench() -> type[Bench]:
    """For tests that need several worlds, or one of another size."""
    return Bench


@pytest.fixture
def granted(bench: Any) -> Any:
    """Domain 1 granted its page 8 to domain 2, as entry 0."""
    assert bench.run("grant.create", gfn=8, to=2, rights=3) == 0
    return bench
