"""Every refusal, in the order of the checks: each case breaks one rule and several later ones."""

from typing import Any

import pytest

from hvfuzz.abi.status import Status

GVA = 0xFFFF_8800_0001_0400
HOLE = 0xFFFF_8000_0000_1000
SELF = 0x7FF0
Case = tuple[str, dict[str, Any], Status]


def step(name: str, **given: Any) -> tuple[str, dict[str, Any]]:
    return name, given


def u64(*values: int, at: int = GVA) -> tuple[tuple[int, bytes], ...]:
    return ((at, b"".join(value.to_bytes(8, "little") for value in values)),)


def u32(*values: int, at: int = GVA) -> tuple[tuple[int, bytes], ...]:
    return ((at, b"".join(value.to_bytes(4, "little") for value in values)),)


GRANT = step("grant.create", gfn=8, to=2, rights=3)
GRANT_R = step("grant.create", gfn=9, to=2, rights=1)
MAP = step("grant.map", caller=2, granter=1, ref=0, gfn=0x100, iova=0x5000, flags=3)
DMA = step("device.dma_map", iova=0, gfn=3, count=1, rights=3)
DMA_R = step("device.dma_map", iova=0x1000, gfn=4, count=1, rights=1)
DMA_W = step("device.dma_map", iova=0x2000, gfn=5, count=1, rights=2)
FOREIGN_DMA = (
    step("grant.create", caller=2, gfn=8, to=1, rights=3),
    step("grant.map", granter=2, ref=0, gfn=0x100, iova=0x5000, flags=3),
)
READ_ONLY = step("memory.protect", first=6, count=1, rights=1)
PORTS = [step("event.alloc", remote=2)] * 128
PORT = PORTS[0]
GRANTS = [GRANT] * 64
HANDLES = [step("grant.map", caller=2, granter=1, ref=0, gfn=0x100 + at, flags=1) for at in range(64)]

CASES: list[tuple[list[Any], str, dict[str, Any], Status]] = [
    ([], "discovery.version", {"want": 0}, Status.INVALID),
    ([], "discovery.features", {"page": 2}, Status.INVALID),
    ([], "discovery.limits", {"what": 10}, Status.INVALID),
    # memory.populate
    ([], "memory.populate", {"first": 0, "count": 1, "order": 1}, Status.INVALID),
    ([], "memory.populate", {"first": 0, "count": 1, "flags": 2}, Status.INVALID),
    ([], "memory.populate", {"first": 0, "count": 0}, Status.INVALID),
    ([], "memory.populate", {"first": 0, "count": 513}, Status.INVALID),
    ([], "memory.populate", {"first": 0, "count": 3, "order": 9}, Status.INVALID),
    ([], "memory.populate", {"first": 1, "count": 1, "order": 9}, Status.INVALID),
    ([], "memory.populate", {"first": 0x7FF, "count": 2}, Status.INVALID),
    ([], "memory.populate", {"first": 2**64 - 1, "count": 1}, Status.INVALID),
    ([], "memory.populate", {"first": 0x600, "count": 2, "order": 9}, Status.INVALID),
    ([], "memory.populate", {"first": 0x3F, "count": 2}, Status.EXISTS),
    ([], "memory.populate", {"first": 0, "count": 1, "order": 9}, Status.EXISTS),
    # memory.decrease
    ([], "memory.decrease", {"first": 0x100, "count": 0}, Status.INVALID),
    ([], "memory.decrease", {"first": 0x100, "count": 513}, Status.INVALID),
    ([], "memory.decrease", {"first": 0x7FF, "count": 2}, Status.INVALID),
    ([], "memory.decrease", {"first": 0x3F, "count": 2}, Status.NOT_PRESENT),
    ([GRANT], "memory.decrease", {"first": 8, "count": 60}, Status.BUSY),
    ([GRANT, MAP], "memory.decrease", {"caller": 2, "first": 0x100, "count": 2}, Status.NOT_OWNER),
    ([GRANT, MAP], "memory.decrease", {"first": 7, "count": 2}, Status.BUSY),
    ([DMA], "memory.decrease", {"first": 3, "count": 1}, Status.BUSY),
    # memory.protect
    ([], "memory.protect", {"first": 0, "count": 0, "rights": 1}, Status.INVALID),
    ([], "memory.protect", {"first": 0, "count": 513, "rights": 1}, Status.INVALID),
    ([], "memory.protect", {"first": 0x7FF, "count": 2, "rights": 1}, Status.INVALID),
    *(
        ([], "memory.protect", {"first": 0x100, "count": 1, "rights": rights}, Status.INVALID)
        for rights in (0, 2, 4, 6, 8, 15)
    ),
    ([], "memory.protect", {"first": 0x100, "count": 1, "rights": 1}, Status.NOT_PRESENT),
    (
        [GRANT, MAP],
        "memory.protect",
        {"caller": 2, "first": 0x100, "count": 2, "rights": 7},
        Status.NOT_OWNER,
    ),
    # memory.exchange
    ([], "memory.exchange", {"gfns": GVA, "out": GVA, "count": 0}, Status.INVALID),
    ([], "memory.exchange", {"gfns": GVA, "out": GVA, "count": 65}, Status.INVALID),
    ([], "memory.exchange", {"gfns": HOLE, "out": HOLE, "count": 65, "start": 2}, Status.INVALID),
    ([], "memory.exchange", {"gfns": GVA, "out": GVA, "count": 1}, Status.FAULT),
    ([], "memory.exchange", {"gfns": HOLE, "out": GVA, "count": 1}, Status.FAULT),
    (
        [],
        "memory.exchange",
        {"gfns": GVA, "out": HOLE, "count": 1, "fetched": u64(2**63)},
        Status.FAULT,
    ),
    # The bases are good, the elements that are used are not.
    (
        [],
        "memory.exchange",
        {"gfns": 0xFFFF_7FFF_FFFF_FFF8, "out": GVA, "count": 1, "start": 2},
        Status.FAULT,
    ),
    ([], "memory.exchange", {"gfns": 2**64 - 8, "out": GVA, "count": 1, "start": 1}, Status.FAULT),
    (
        [],
        "memory.exchange",
        {"gfns": GVA, "out": GVA, "count": 2, "fetched": u64(0x800, 0x100)},
        Status.INVALID,
    ),
    (
        [],
        "memory.exchange",
        {"gfns": GVA, "out": GVA, "count": 3, "fetched": u64(5, 5, 0x100)},
        Status.INVALID,
    ),
    (
        [],
        "memory.exchange",
        {"gfns": GVA, "out": GVA, "count": 3, "fetched": u64(5, 0x100, 5)},
        Status.NOT_PRESENT,
    ),
    (
        [GRANT, MAP],
        "memory.exchange",
        {"caller": 2, "gfns": GVA, "out": GVA, "count": 1, "fetched": u64(0x100)},
        Status.NOT_OWNER,
    ),
    (
        [GRANT],
        "memory.exchange",
        {"gfns": GVA, "out": GVA, "count": 2, "fetched": u64(8, 0x100)},
        Status.BUSY,
    ),
    ([DMA], "memory.exchange", {"gfns": GVA, "out": GVA, "count": 1, "fetched": u64(3)}, Status.BUSY),
    # grant.create
    ([], "grant.create", {"gfn": 0x800, "to": 9, "rights": 1}, Status.INVALID),
    ([], "grant.create", {"gfn": 8, "to": 9, "rights": 2}, Status.INVALID),
    ([], "grant.create", {"gfn": 8, "to": 9, "rights": 7}, Status.INVALID),
    ([], "grant.create", {"gfn": 0x100, "to": 3, "rights": 1}, Status.NO_DOMAIN),
    ([], "grant.create", {"gfn": 0x100, "to": 1, "rights": 1}, Status.INVALID),
    ([], "grant.create", {"gfn": 0x100, "to": SELF, "rights": 1}, Status.INVALID),
    ([], "grant.create", {"gfn": 0x100, "to": 2, "rights": 1}, Status.NOT_PRESENT),
    (
        [GRANT, MAP],
        "grant.create",
        {"caller": 2, "gfn": 0x100, "to": 1, "rights": 3},
        Status.NOT_OWNER,
    ),
    ([READ_ONLY, *GRANTS], "grant.create", {"gfn": 6, "to": 2, "rights": 3}, Status.NOT_PERMITTED),
    (GRANTS, "grant.create", {"gfn": 8, "to": 2, "rights": 3}, Status.LIMIT),
    # grant.revoke
    ([], "grant.revoke", {"ref": 0}, Status.NO_GRANT),
    ([GRANT], "grant.revoke", {"ref": 64}, Status.NO_GRANT),
    ([GRANT], "grant.revoke", {"caller": 2, "ref": 0}, Status.NO_GRANT),
    ([GRANT, MAP], "grant.revoke", {"ref": 0}, Status.BUSY),
    # grant.map
    ([], "grant.map", {"granter": 9, "flags": 0}, Status.INVALID),
    ([], "grant.map", {"granter": 9, "flags": 4}, Status.INVALID),
    ([], "grant.map", {"granter": 9, "flags": 9}, Status.INVALID),
    ([], "grant.map", {"granter": 9, "gfn": 0x800, "flags": 1}, Status.INVALID),
    ([], "grant.map", {"granter": 9, "iova": 0x5001, "flags": 2}, Status.INVALID),
    ([], "grant.map", {"granter": 9, "iova": 1 << 39, "flags": 2}, Status.INVALID),
    ([], "grant.map", {"granter": 9, "gfn": 0x800, "flags": 2}, Status.NO_DOMAIN),
    ([], "grant.map", {"granter": 9, "iova": 1, "flags": 1}, Status.NO_DOMAIN),
    ([GRANT], "grant.map", {"granter": 1, "flags": 1}, Status.INVALID),
    ([GRANT], "grant.map", {"granter": SELF, "flags": 1}, Status.INVALID),
    ([], "grant.map", {"caller": 2, "granter": 1, "flags": 1}, Status.NO_GRANT),
    ([GRANT], "grant.map", {"caller": 0, "granter": 1, "flags": 1}, Status.NO_GRANT),
    ([GRANT_R], "grant.map", {"caller": 2, "granter": 1, "flags": 1}, Status.NOT_PERMITTED),
    ([GRANT], "grant.map", {"caller": 2, "granter": 1, "gfn": 5, "flags": 1}, Status.EXISTS),
    (
        [GRANT, MAP],
        "grant.map",
        {"caller": 2, "granter": 1, "gfn": 0x101, "iova": 0x5000, "flags": 3},
        Status.EXISTS,
    ),
    (
        [GRANT, *HANDLES],
        "grant.map",
        {"caller": 2, "granter": 1, "gfn": 0x200, "flags": 1},
        Status.LIMIT,
    ),
    (
        [GRANT, *HANDLES],
        "grant.map",
        {"caller": 2, "granter": 1, "gfn": 0x100, "flags": 1},
        Status.EXISTS,
    ),
    # grant.unmap
    ([], "grant.unmap", {"handle": 0, "count": 0, "flags": 1}, Status.INVALID),
    ([], "grant.unmap", {"handle": 0, "count": 65, "flags": 1}, Status.INVALID),
    ([], "grant.unmap", {"handle": 0, "count": 1, "flags": 0}, Status.INVALID),
    ([], "grant.unmap", {"handle": 0, "count": 1, "flags": 5}, Status.INVALID),
    ([], "grant.unmap", {"handle": 0, "count": 1, "flags": 3}, Status.BAD_HANDLE),
    ([GRANT, MAP], "grant.unmap", {"caller": 2, "count": 2, "flags": 3}, Status.BAD_HANDLE),
    ([GRANT, MAP], "grant.unmap", {"caller": 2, "handle": 2**32 - 1, "count": 2, "flags": 3}, Status.BAD_HANDLE),
    # grant.copy
    ([], "grant.copy", {"flags": 4, "length": 1, "from_domain": 9}, Status.INVALID),
    ([], "grant.copy", {"flags": 3, "length": 0, "from_domain": 9}, Status.INVALID),
    ([], "grant.copy", {"flags": 3, "length": 2, "from_offset": 4095}, Status.INVALID),
    ([], "grant.copy", {"flags": 3, "length": 2, "to_offset": 4095}, Status.INVALID),
    ([], "grant.copy", {"length": 1, "from_": 0x800, "to": 0x100}, Status.INVALID),
    ([], "grant.copy", {"length": 1, "from_": 0x100, "to": 0x800}, Status.NOT_PRESENT),
    ([], "grant.copy", {"length": 1, "from_": 1, "to": 0x800}, Status.INVALID),
    ([], "grant.copy", {"length": 1, "from_": 1, "to": 0x100}, Status.NOT_PRESENT),
    ([READ_ONLY], "grant.copy", {"length": 1, "from_": 6, "to": 6}, Status.NOT_PERMITTED),
    ([], "grant.copy", {"length": 1, "flags": 1, "from_domain": 9, "to": 0x800}, Status.NO_DOMAIN),
    ([], "grant.copy", {"length": 1, "flags": 1, "from_domain": 2, "to": 0x800}, Status.NO_GRANT),
    ([GRANT], "grant.copy", {"length": 1, "flags": 1, "from_domain": 1}, Status.NO_GRANT),
    ([], "grant.copy", {"length": 1, "flags": 2, "to_domain": 9}, Status.NO_DOMAIN),
    ([GRANT], "grant.copy", {"caller": 0, "length": 1, "flags": 2, "to_domain": 1}, Status.NO_GRANT),
    ([GRANT_R], "grant.copy", {"caller": 2, "length": 1, "flags": 2, "to_domain": 1}, Status.NOT_PERMITTED),
    # event
    ([], "event.alloc", {"remote": 3}, Status.NO_DOMAIN),
    (PORTS, "event.alloc", {"remote": 2}, Status.LIMIT),
    (PORTS, "event.alloc", {"remote": 3}, Status.NO_DOMAIN),
    ([], "event.bind", {"remote": 3, "port": 0}, Status.NO_DOMAIN),
    ([], "event.bind", {"remote": 1, "port": 0, "caller": 2}, Status.NO_PORT),
    ([PORT], "event.bind", {"remote": 1, "port": 128, "caller": 2}, Status.NO_PORT),
    ([PORT], "event.bind", {"remote": 1, "port": 0, "caller": 0}, Status.NO_PORT),
    (
        [PORT, step("event.bind", caller=2, remote=1, port=0)],
        "event.bind",
        {"remote": 1, "port": 0, "caller": 2},
        Status.NO_PORT,
    ),
    (
        [step("event.alloc", caller=2, remote=1), *PORTS],
        "event.bind",
        {"remote": 2, "port": 0},
        Status.LIMIT,
    ),
    ([], "event.send", {"port": 0}, Status.NO_PORT),
    ([PORT], "event.send", {"port": 0}, Status.NO_PORT),
    ([], "event.send", {"port": 2**32 - 1}, Status.NO_PORT),
    ([], "event.close", {"port": 0}, Status.NO_PORT),
    ([], "event.close", {"port": 128}, Status.NO_PORT),
    # sched
    ([], "sched.kick", {"vcpu": 2}, Status.INVALID),
    ([], "sched.poll", {"ports": HOLE, "count": 0}, Status.INVALID),
    ([], "sched.poll", {"ports": HOLE, "count": 17}, Status.INVALID),
    ([], "sched.poll", {"ports": HOLE, "count": 1}, Status.FAULT),
    ([], "sched.poll", {"ports": GVA, "count": 1}, Status.FAULT),
    ([PORT], "sched.poll", {"ports": GVA, "count": 2, "fetched": u32(0, 1)}, Status.NO_PORT),
    ([PORT], "sched.poll", {"ports": GVA, "count": 1, "fetched": u32(128)}, Status.NO_PORT),
    ([PORT], "sched.poll", {"ports": GVA, "count": 1, "fetched": u32(64)}, Status.NO_PORT),
    ([PORT], "sched.poll", {"ports": GVA, "count": 1, "fetched": u32(0)}, Status.AGAIN),
    # device
    ([], "device.assign", {"caller": 0, "device": 4, "to": 9}, Status.NO_DEVICE),
    ([], "device.assign", {"caller": 0, "device": 0, "to": 9}, Status.NO_DOMAIN),
    ([], "device.assign", {"caller": 0, "device": 0, "to": 1}, Status.BUSY),
    ([], "device.deassign", {"caller": 0, "device": 4}, Status.NO_DEVICE),
    ([], "device.deassign", {"caller": 0, "device": 1}, Status.NOT_PRESENT),
    *(
        (list(FOREIGN_DMA), "device.dma_map", {"gfn": 3, "count": 1, "rights": 3} | given, Status.INVALID)
        for given in (
            {"count": 0},
            {"count": 65},
            {"iova": 0x5800},
            {"iova": 1 << 39},
            {"iova": (1 << 39) - 0x1000, "count": 2},
            {"gfn": 0x7FF, "count": 2},
            {"gfn": 2**64 - 1},
            {"rights": 0},
            {"rights": 5},
            {"rights": 8},
        )
    ),
    (list(FOREIGN_DMA), "device.dma_map", {"iova": 0x5000, "gfn": 0x50, "count": 1, "rights": 3}, Status.NOT_PRESENT),
    (list(FOREIGN_DMA), "device.dma_map", {"iova": 0x5000, "gfn": 0x100, "count": 1, "rights": 3}, Status.NOT_OWNER),
    (
        [READ_ONLY, *FOREIGN_DMA],
        "device.dma_map",
        {"iova": 0x5000, "gfn": 6, "count": 1, "rights": 2},
        Status.NOT_PERMITTED,
    ),
    (list(FOREIGN_DMA), "device.dma_map", {"iova": 0x4000, "gfn": 6, "count": 2, "rights": 2}, Status.EXISTS),
    ([DMA], "device.dma_unmap", {"iova": 0, "count": 0}, Status.INVALID),
    ([DMA], "device.dma_unmap", {"iova": 0, "count": 65}, Status.INVALID),
    ([DMA], "device.dma_unmap", {"iova": 1, "count": 1}, Status.INVALID),
    ([DMA], "device.dma_unmap", {"iova": 2**64 - 0x1000, "count": 1}, Status.INVALID),
    ([DMA], "device.dma_unmap", {"iova": 0, "count": 2}, Status.NOT_PRESENT),
    (list(FOREIGN_DMA), "device.dma_unmap", {"iova": 0x5000, "count": 2}, Status.EXISTS),
    ([DMA], "device.dma_submit", {"device": 2, "length": 0}, Status.NO_DEVICE),
    ([DMA], "device.dma_submit", {"device": 1, "length": 0}, Status.NOT_PERMITTED),
    ([DMA], "device.dma_submit", {"caller": 2, "length": 0}, Status.NOT_PERMITTED),
    ([DMA], "device.dma_submit", {"from_": 0x8000, "length": 0}, Status.INVALID),
    ([DMA], "device.dma_submit", {"from_": 0x8000, "length": 8193}, Status.INVALID),
    ([DMA], "device.dma_submit", {"from_": 0x8000, "to": 1 << 39, "length": 1}, Status.INVALID),
    ([DMA], "device.dma_submit", {"from_": 2**64 - 1, "length": 1}, Status.INVALID),
    ([DMA], "device.dma_submit", {"from_": 0xFFF, "length": 2}, Status.FAULT),
    ([DMA, DMA_R], "device.dma_submit", {"from_": 0, "to": 0x1000, "length": 1}, Status.FAULT),
    ([DMA, DMA_W], "device.dma_submit", {"from_": 0x2000, "to": 0, "length": 1}, Status.FAULT),
    ([DMA], "device.dma_batch", {"device": 2, "ring": HOLE}, Status.NO_DEVICE),
    ([DMA], "device.dma_batch", {"device": 1, "ring": HOLE}, Status.NOT_PERMITTED),
    ([DMA], "device.dma_batch", {"ring": HOLE}, Status.FAULT),
    ([DMA], "device.dma_batch", {"ring": GVA}, Status.FAULT),
    ([DMA], "device.dma_batch", {"ring": GVA, "fetched": u64(0)}, Status.INVALID),
    ([DMA], "device.dma_batch", {"ring": GVA, "fetched": u64(17)}, Status.INVALID),
    ([DMA], "device.dma_batch", {"ring": GVA, "fetched": u64(1)}, Status.FAULT),
    (
        [DMA],
        "device.dma_batch",
        {"ring": GVA, "fetched": u64(2) + u64(0, 0, 0, 0x8000, 0, 1, at=GVA + 8)},
        Status.INVALID,
    ),
    (
        [DMA],
        "device.dma_batch",
        {"ring": GVA, "fetched": u64(2) + u64(0x8000, 0, 1, 0, 0, 0, at=GVA + 8)},
        Status.FAULT,
    ),
    # multicall, console
    ([], "multicall", {"entries": HOLE, "count": 0}, Status.INVALID),
    ([], "multicall", {"entries": HOLE, "count": 17}, Status.INVALID),
    ([], "multicall", {"entries": HOLE, "count": 1}, Status.FAULT),
    ([], "multicall", {"entries": GVA, "count": 1}, Status.FAULT),
    ([], "console.write", {"text": HOLE, "length": 257}, Status.INVALID),
    ([], "console.write", {"text": HOLE, "length": 1}, Status.FAULT),
    ([], "console.write", {"text": GVA, "length": 1}, Status.FAULT),
]


@pytest.mark.parametrize(
    ("prepare", "name", "given", "status"),
    CASES,
    ids=[f"{name}-{status.name}-{at}" for at, (_, name, _, status) in enumerate(CASES)],
)
def test_call_is_refused(bench: Any, prepare: list[Any], name: str, given: dict[str, Any], status: Status) -> None:
    for earlier, arguments in prepare:
        assert not isinstance(bench.run(earlier, **arguments), Status)
    assert bench.run(name, **given) is status


@pytest.mark.parametrize(("count", "refused"), [(5, True), (4, False)])
def test_populate_needs_as_many_free_frames(new_bench: Any, count: int, refused: bool) -> None:
    bench = new_bench(frames=64 + 3 * 64 + 4)
    assert bench.run("memory.populate", first=0x100, count=count) == (Status.NO_MEMORY if refused else count)


def test_populate_needs_aligned_blocks(new_bench: Any) -> None:
    bench = new_bench(frames=3 * 512)
    bench.run("memory.populate", first=0x200, count=2, order=9)
    bench.run("memory.decrease", first=0x201, count=511)
    bench.run("memory.decrease", first=0x401, count=511)
    assert bench.state.free() > 2 * 512
    assert bench.run("memory.populate", first=0x600, count=1, order=9) is Status.NO_MEMORY
    bench.run("memory.decrease", first=0x400, count=1)
    assert bench.run("memory.populate", first=0x600, count=1, order=9) == 1


def test_exchange_needs_new_frames_before_the_old_are_free(new_bench: Any) -> None:
    bench = new_bench(frames=64 + 3 * 64 + 1)
    given = {"gfns": GVA, "out": GVA, "count": 2, "fetched": u64(5, 6)}
    assert bench.run("memory.exchange", **given) is Status.NO_MEMORY


@pytest.mark.parametrize("name", ["event.alloc", "event.bind"])
def test_first_port_of_a_bucket_needs_a_frame(new_bench: Any, name: str) -> None:
    bench = new_bench(frames=64 + 3 * 64 + 1)
    bench.run("event.alloc", caller=2, remote=1)
    assert bench.run(name, remote=2) is Status.NO_MEMORY


def test_clock_is_read_four_times_in_a_window(bench: Any) -> None:
    for read in range(4):
        assert bench.run("time.clock_read", cycles=5000 + read) == 4096
    assert bench.run("time.clock_read", cycles=65535) is Status.AGAIN
    assert bench.run("time.clock_read", cycles=65535, caller=2) == 61440
    assert bench.run("time.clock_read", cycles=65536) == 65536


def test_block_returns_at_once_with_an_event_pending(bench: Any) -> None:
    bench.run("event.alloc", remote=2)
    bench.run("event.bind", caller=2, remote=1, port=0)
    assert bench.run("event.send", port=0) == 0
    assert bench.run("sched.block", caller=2) is Status.AGAIN
    assert bench.run("sched.block") == 0
