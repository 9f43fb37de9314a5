"""What each accepted call changes: exactly these cells, to these values."""

from typing import Any

import pytest

from hvfuzz.abi.status import Status
from hvfuzz.oracles.contract.spec import (
    FREE,
    HOST_FRAME,
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

GVA = 0xFFFF_8800_0001_0400
SELF = 0x7FF0


def changed(bench: Any, name: str, **given: Any) -> tuple[int, dict[Any, Any]]:
    """The result of an accepted call, and the cells that differ afterwards (None: absent)."""
    before = dict(bench.state.cells)
    result = bench.run(name, **given)
    assert not isinstance(result, Status)
    after = bench.state.cells
    differ = {key: after.get(key) for key in before | after if before.get(key) != after.get(key)}
    assert set(differ) <= set(bench.state.written)
    return result, differ


def hfn(domain: int, gfn: int) -> int:
    """The frame that the page had at boot."""
    return 64 + domain * 64 + gfn


@pytest.fixture
def paired(bench: Any) -> Any:
    """Port 0 of domain 1 and port 0 of domain 2 are a pair."""
    bench.run("event.alloc", remote=2)
    bench.run("event.bind", caller=2, remote=1, port=0)
    return bench


@pytest.mark.parametrize(("want", "agreed"), [(1, 1), (2, 2), (2**32 - 1, 2)])
def test_version_is_the_lesser(bench: Any, want: int, agreed: int) -> None:
    bench.state["version", 1] = 0
    assert changed(bench, "discovery.version", want=want) == (agreed, {("version", 1): agreed})


def test_features_depend_on_the_version(bench: Any) -> None:
    assert bench.run("discovery.features", page=0) == 0x1FF
    assert bench.run("discovery.features", page=1) == 0b111
    bench.run("discovery.version", want=1)
    assert bench.run("discovery.features", page=1) == 0


def test_limits(bench: Any) -> None:
    bench.state["pool", 1] = 13
    limits = [bench.run("discovery.limits", what=what) for what in range(10)]
    assert limits == [64, 64, 128, 16, 16, 64, 16, 256, 0x800, 13]


@pytest.mark.parametrize("order", [0, 9])
def test_populate(bench: Any, order: int) -> None:
    free = bench.state.free()
    frames = bench.fresh(1 << order, order)
    result, cells = changed(bench, "memory.populate", first=0x200, count=1, order=order, flags=1)
    assert result == 1
    assert cells.pop(FREE) == free - (1 << order)
    assert cells == {
        **{("page", 1, 0x200 + at): Page(frame, 7, False) for at, frame in enumerate(frames)},
        **{("frame", frame): Frame(1, 1, 0, 0) for frame in frames},
    }


def test_decrease(bench: Any) -> None:
    free = bench.state.free()
    gone = {("page", 1, 5): None, ("page", 1, 6): None, ("frame", hfn(1, 5)): None, ("frame", hfn(1, 6)): None}
    assert changed(bench, "memory.decrease", first=5, count=2) == (2, {**gone, FREE: free + 2})


def test_protect(bench: Any) -> None:
    cells = {("page", 1, gfn): Page(hfn(1, gfn), 1, False) for gfn in (5, 6)}
    assert changed(bench, "memory.protect", first=5, count=2, rights=1) == (2, cells)
    assert changed(bench, "memory.protect", first=5, count=2, rights=1) == (2, {})


def test_protect_allows_what_is_granted_and_mapped(granted: Any) -> None:
    granted.run("device.dma_map", gfn=8, count=1, rights=3)
    assert changed(granted, "memory.protect", first=8, count=1, rights=1)[0] == 1


def test_exchange_uses_the_elements_from_start_on(bench: Any) -> None:
    bench.run("memory.protect", first=6, count=1, rights=3)
    first, second = bench.fresh(2)
    fetched = [(GVA + 8, bench.words(5)), (GVA + 16, bench.words(6))]
    given = {"gfns": GVA, "out": 0x1000, "count": 2, "start": 1, "fetched": fetched}
    assert bench.accepts(bench.call("memory.exchange", **given)).written == (0x1008, bench.words(5, 6))
    assert changed(bench, "memory.exchange", **given) == (
        2,
        {
            ("page", 1, 5): Page(first, 7, False),
            ("page", 1, 6): Page(second, 3, False),
            ("frame", first): Frame(1, 1, 0, 0),
            ("frame", second): Frame(1, 1, 0, 0),
            ("frame", hfn(1, 5)): None,
            ("frame", hfn(1, 6)): None,
        },
    )


def test_grant_create_and_revoke(bench: Any) -> None:
    frame = ("frame", hfn(1, 8))
    entry = Grant(8, hfn(1, 8), 2, 1, 0, 0)
    made = {("grant", 1, 0): entry, frame: Frame(1, 1, 0, 1)}
    assert changed(bench, "grant.create", gfn=8, to=2, rights=1) == (0, made)
    assert changed(bench, "grant.create", gfn=8, to=0, rights=3)[0] == 1
    gone = {("grant", 1, 0): None, frame: Frame(1, 1, 0, 1)}
    assert changed(bench, "grant.revoke", ref=0) == (0, gone)
    assert bench.run("grant.create", gfn=9, to=2, rights=1) == 0


def test_grant_map_both_sides(granted: Any) -> None:
    frame = hfn(1, 8)
    result, cells = changed(granted, "grant.map", caller=2, granter=1, ref=0, gfn=0x100, iova=0x5000, flags=7)
    assert result == 0
    assert cells == {
        ("handle", 2, 0): Handle(1, 0, True, True, 0x100, 0x5000, frame, 1),
        ("page", 2, 0x100): Page(frame, 1, True),
        ("iova", 2, 5): IoPage(frame, 1, True),
        ("grant", 1, 0): Grant(8, frame, 2, 3, 1, 1),
        ("frame", frame): Frame(1, 3, 2, 1),
    }


@pytest.mark.parametrize(("flags", "host"), [(1, True), (2, False)])
def test_grant_map_one_side_leaves_the_other_address_out(granted: Any, flags: int, host: bool) -> None:
    result, cells = changed(granted, "grant.map", caller=2, granter=1, gfn=0x100, iova=0x5000, flags=flags)
    gfn, iova = (0x100, 0) if host else (0, 0x5000)
    assert result == 0
    assert cells[("handle", 2, 0)] == Handle(1, 0, host, not host, gfn, iova, hfn(1, 8), 3)
    assert (("page", 2, 0x100) in cells) is host
    assert (("iova", 2, 5) in cells) is not host
    assert cells[("frame", hfn(1, 8))] == Frame(1, 2, 1, 1)


def test_grant_unmap_side_by_side(granted: Any) -> None:
    frame = hfn(1, 8)
    granted.run("grant.map", caller=2, granter=1, gfn=0x100, iova=0x5000, flags=3)
    granted.run("grant.map", caller=2, granter=1, gfn=0x101, flags=1)
    assert changed(granted, "grant.unmap", caller=2, handle=0, count=2, flags=2) == (
        1,
        {
            ("handle", 2, 0): Handle(1, 0, True, False, 0x100, 0, frame, 3),
            ("iova", 2, 5): None,
            ("grant", 1, 0): Grant(8, frame, 2, 3, 2, 0),
            ("frame", frame): Frame(1, 3, 2, 1),
        },
    )
    assert changed(granted, "grant.unmap", caller=2, handle=0, count=2, flags=2) == (0, {})
    assert changed(granted, "grant.unmap", caller=2, handle=0, count=2, flags=3) == (
        2,
        {
            ("handle", 2, 0): None,
            ("handle", 2, 1): None,
            ("page", 2, 0x100): None,
            ("page", 2, 0x101): None,
            ("grant", 1, 0): Grant(8, frame, 2, 3, 0, 0),
            ("frame", frame): Frame(1, 1, 0, 1),
        },
    )


@pytest.mark.parametrize(
    "given",
    [
        {"from_": 8, "to": 9, "from_domain": 9, "to_domain": 9},
        {"flags": 1, "from_domain": 1, "from_": 0, "to": 9},
        {"flags": 2, "to_domain": 1, "to": 0, "from_": 9},
        {"flags": 3, "to_domain": 1, "to": 0, "from_domain": 1, "from_": 0},
    ],
)
def test_grant_copy_changes_no_cell(granted: Any, given: dict[str, int]) -> None:
    length = {"length": 4000, "from_offset": 96, "to_offset": 0}
    assert changed(granted, "grant.copy", caller=2, **given, **length) == (4000, {})


def test_copy_works_on_a_mapped_grant(granted: Any) -> None:
    granted.run("grant.map", caller=2, granter=1, gfn=0x100, flags=5)
    assert granted.run("grant.copy", caller=2, from_=0x100, to=3, length=1) == 1
    assert granted.run("grant.copy", caller=2, from_=3, to=0x100, length=1) is Status.NOT_PERMITTED


def test_event_alloc_takes_a_bucket_once(bench: Any) -> None:
    free = bench.state.free()
    (page,) = bench.fresh(1)
    assert changed(bench, "event.alloc", remote=SELF) == (
        0,
        {
            ("port", 1, 0): Port(PortState.UNBOUND, 1, 0, False),
            ("bucket", 1, 0): page,
            ("frame", page): HOST_FRAME,
            FREE: free - 1,
        },
    )
    second = {("port", 1, 1): Port(PortState.UNBOUND, 0, 0, False)}
    assert changed(bench, "event.alloc", remote=0) == (1, second)


def test_event_bind_makes_a_pair(bench: Any) -> None:
    bench.run("event.alloc", remote=2)
    bench.run("event.alloc", caller=2, remote=0)
    assert changed(bench, "event.bind", caller=2, remote=1, port=0) == (
        1,
        {
            ("port", 1, 0): Port(PortState.CONNECTED, 2, 1, False),
            ("port", 2, 1): Port(PortState.CONNECTED, 1, 0, False),
        },
    )


def test_event_bind_within_one_domain(bench: Any) -> None:
    bench.run("event.alloc", remote=1)
    assert changed(bench, "event.bind", remote=SELF, port=0) == (
        1,
        {
            ("port", 1, 0): Port(PortState.CONNECTED, 1, 1, False),
            ("port", 1, 1): Port(PortState.CONNECTED, 1, 0, False),
        },
    )


def test_event_send_wakes_the_lowest_that_waits(paired: Any) -> None:
    paired.run("event.alloc", caller=2, remote=0)
    poll = {"ports": GVA, "count": 1, "timeout": 9}
    paired.run("sched.poll", caller=2, cpu=0, **poll, fetched=[(GVA, paired.words(1, width=4))])
    paired.run("sched.block", caller=2, cpu=1)
    pending = Port(PortState.CONNECTED, 1, 0, True)
    assert changed(paired, "event.send", port=0) == (
        0,
        {("port", 2, 0): pending, ("vcpu", 2, 1): RunState.RUNNABLE},
    )
    assert changed(paired, "event.send", port=0) == (0, {})


def test_event_send_wakes_one_poll_on_that_port(paired: Any) -> None:
    fetched = [(GVA, paired.words(0, width=4))]
    for cpu in (0, 1):
        paired.run("sched.poll", caller=2, cpu=cpu, ports=GVA, count=1, timeout=9, fetched=fetched)
    _, cells = changed(paired, "event.send", port=0)
    assert set(cells) == {("port", 2, 0), ("vcpu", 2, 0), ("poll", 2, 0)}


def test_event_send_ends_a_halt_but_not_a_stop(paired: Any) -> None:
    paired.state["vcpu", 2, 0] = RunState.STOPPED
    paired.state["vcpu", 2, 1] = RunState.HALTED
    cells = changed(paired, "event.send", port=0)[1]
    assert cells["vcpu", 2, 1] == RunState.RUNNABLE
    assert ("vcpu", 2, 0) not in cells


def test_event_close_lets_the_peer_wait_again(paired: Any) -> None:
    paired.run("event.send", caller=2, port=0)
    paired.run("event.send", port=0)
    free, page = paired.state.free(), paired.state["bucket", 1, 0]
    assert changed(paired, "event.close", port=0) == (
        0,
        {
            ("port", 1, 0): None,
            ("port", 2, 0): Port(PortState.UNBOUND, 1, 0, True),
            ("bucket", 1, 0): None,
            ("frame", page): None,
            FREE: free + 1,
        },
    )
    assert paired.run("event.bind", remote=2, port=0) == 0


def test_event_close_keeps_a_bucket_in_use_and_ends_polls(bench: Any) -> None:
    for _ in range(3):
        bench.run("event.alloc", remote=2)
    fetched = [(GVA, bench.words(0, 1, width=4))]
    for cpu in (0, 1):
        bench.run("sched.poll", cpu=cpu, ports=GVA, count=2, timeout=9, fetched=fetched)
    assert set(changed(bench, "event.close", port=2)[1]) == {("port", 1, 2)}
    assert changed(bench, "event.close", port=1)[1] == {
        ("port", 1, 1): None,
        ("vcpu", 1, 0): RunState.RUNNABLE,
        ("vcpu", 1, 1): RunState.RUNNABLE,
        ("poll", 1, 0): None,
        ("poll", 1, 1): None,
    }


def test_sched_block_kick_and_yield(bench: Any) -> None:
    assert changed(bench, "sched.yield") == (0, {})
    assert changed(bench, "sched.kick", vcpu=1) == (0, {})
    assert changed(bench, "sched.block", cpu=1) == (0, {("vcpu", 1, 1): RunState.BLOCKED})
    assert changed(bench, "sched.kick", vcpu=1) == (1, {("vcpu", 1, 1): RunState.RUNNABLE})


def test_sched_poll(paired: Any) -> None:
    paired.run("event.alloc", remote=0)
    poll = {"ports": GVA, "count": 2, "fetched": [(GVA, paired.words(1, 0, width=4))], "cycles": 1000}
    assert changed(paired, "sched.poll", timeout=7, **poll) == (
        0,
        {("vcpu", 1, 0): RunState.POLLING, ("poll", 1, 0): Poll((1, 0), 16384, 16384)},
    )
    paired.run("event.send", caller=2, port=0)
    assert changed(paired, "sched.poll", timeout=7, **poll) == (2, {})
    assert changed(paired, "sched.poll", timeout=0, **poll) == (2, {})


def test_clock_window_counts_reads(bench: Any) -> None:
    read = changed(bench, "time.clock_read", cycles=70000)
    assert read == (69632, {("clock_window", 1): ClockWindow(1, 1)})
    read = changed(bench, "time.clock_read", cycles=70001)
    assert read == (69632, {("clock_window", 1): ClockWindow(1, 2)})


def test_device_assign_and_deassign(bench: Any) -> None:
    assert changed(bench, "device.assign", caller=0, device=1, to=2) == (0, {("device", 1): 2})
    assert changed(bench, "device.deassign", caller=0, device=1) == (0, {("device", 1): None})


def test_dma_map_displaces(bench: Any) -> None:
    bench.run("device.dma_map", iova=0x1000, gfn=3, count=1, rights=1)
    assert changed(bench, "device.dma_map", iova=0, gfn=4, count=2, rights=3) == (
        2,
        {
            ("iova", 1, 0): IoPage(hfn(1, 4), 3, False),
            ("iova", 1, 1): IoPage(hfn(1, 5), 3, False),
            ("frame", hfn(1, 3)): Frame(1, 1, 0, 0),
            ("frame", hfn(1, 4)): Frame(1, 2, 0, 0),
            ("frame", hfn(1, 5)): Frame(1, 2, 0, 0),
        },
    )
    assert changed(bench, "device.dma_map", iova=0, gfn=4, count=1, rights=1) == (
        1,
        {("iova", 1, 0): IoPage(hfn(1, 4), 1, False)},
    )
    assert changed(bench, "device.dma_unmap", iova=0, count=2) == (
        2,
        {
            ("iova", 1, 0): None,
            ("iova", 1, 1): None,
            ("frame", hfn(1, 4)): Frame(1, 1, 0, 0),
            ("frame", hfn(1, 5)): Frame(1, 1, 0, 0),
        },
    )


def test_dma_submit_and_batch_change_no_cell(bench: Any) -> None:
    bench.run("device.dma_map", iova=0, gfn=3, count=3, rights=3)
    given = {"from_": 1, "to": 0xFFF, "length": 8192}
    assert changed(bench, "device.dma_submit", **given) == (8192, {})
    ring = [(GVA, bench.words(2)), (GVA + 8, bench.words(0, 1, 5, 1, 0xFFF, 8192))]
    assert changed(bench, "device.dma_batch", ring=GVA, fetched=ring) == (2, {})


def test_console_keeps_the_last_bytes(bench: Any) -> None:
    text = bytes(range(200))
    result, cells = changed(bench, "console.write", text=GVA, length=200, fetched=[(GVA, text)])
    assert (result, cells) == (200, {("console", 1): text})
    _, cells = changed(bench, "console.write", text=GVA, length=100, fetched=[(GVA, b"x" * 100)])
    assert cells == {("console", 1): (text + b"x" * 100)[-256:]}
    hole = 0xFFFF_8000_0000_0000
    assert changed(bench, "console.write", text=hole, length=0) == (0, {})
