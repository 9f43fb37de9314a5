"""What the judge holds against a hypervisor that answered, wrote, fetched or allocated something else."""

from typing import Any

import pytest

from hvfuzz.abi.limits import TIME_SLICE
from hvfuzz.abi.status import Status
from hvfuzz.oracles.contract.spec import Observed, valid_range
from hvfuzz.oracles.contract.spec.verdict import POOL_NEED

GVA = 0xFFFF_8800_0001_0400
OK = Status.OK


def verdict(bench: Any, call: Any, observed: Observed) -> str | None:
    """The rule that the observation breaks; a mismatch has no effect on the state."""
    before = dict(bench.state.cells)
    mismatch = bench.judge(call, observed)
    if mismatch is None:
        return None
    assert mismatch.operation == call.name
    assert bench.state.cells == before
    assert bench.state.written == []
    return str(mismatch.rule)


def test_status_and_result_are_exact(bench: Any) -> None:
    call = bench.call("grant.create", gfn=8, to=2, rights=3)
    assert verdict(bench, call, Observed(Status.BUSY)) == "status"
    assert verdict(bench, call, Observed(-99)) == "status"
    assert verdict(bench, call, Observed(Status.FAULT)) == "status"
    assert verdict(bench, call, Observed(Status.NO_POOL)) == "status"
    assert verdict(bench, call, Observed(OK, 1)) == "result"
    assert verdict(bench, call, Observed(OK, 0)) is None
    call = bench.call("grant.revoke", ref=5)
    assert verdict(bench, call, Observed(OK)) == "status"
    assert verdict(bench, call, Observed(Status.NO_GRANT, 1)) == "result"
    assert verdict(bench, call, Observed(Status.NO_GRANT)) is None


@pytest.mark.parametrize(
    ("fresh", "rule"),
    [
        ((1000, 1001), None),
        ((1001, 1000), None),
        ((1000,), "fresh"),
        ((1000, 1001, 1002), "fresh"),
        ((1000, 1000), "fresh"),
        ((1000, 4096), "fresh"),
        ((-1, 1000), "fresh"),
        ((1000, 63), "fresh"),
        ((1000, 70), "fresh"),
    ],
)
def test_fresh_frames_were_free(bench: Any, fresh: tuple[Any, ...], rule: str | None) -> None:
    call = bench.call("memory.populate", first=0x100, count=2)
    assert verdict(bench, call, Observed(OK, 2, fresh=fresh)) == rule


@pytest.mark.parametrize(("first", "rule"), [(512, None), (513, "fresh"), (0, "fresh")])
def test_large_pages_are_aligned_blocks(bench: Any, first: Any, rule: str | None) -> None:
    call = bench.call("memory.populate", first=0x200, count=1, order=9)
    assert verdict(bench, call, Observed(OK, 1, fresh=tuple(range(first, first + 512)))) == rule


def test_large_pages_are_in_order(bench: Any) -> None:
    call = bench.call("memory.populate", first=0x200, count=1, order=9)
    frames: Any = (*range(512, 1022), 1023, 1022)
    assert verdict(bench, call, Observed(OK, 1, fresh=frames)) == "fresh"


def test_calls_that_need_no_frame_take_none(bench: Any) -> None:
    frame: Any = (1000,)
    assert verdict(bench, bench.call("sched.yield"), Observed(OK, fresh=frame, cycles=TIME_SLICE)) == "fresh"
    assert verdict(bench, bench.call("grant.revoke"), Observed(Status.NO_GRANT, fresh=frame)) == "fresh"


def test_pool_runs_out_only_when_it_is_small(bench: Any) -> None:
    call = bench.call("memory.populate", first=0x100, count=1)
    assert verdict(bench, call, Observed(Status.NO_POOL)) == "status"
    bench.state["pool", 1] = 3
    assert verdict(bench, call, Observed(Status.NO_POOL)) is None
    assert verdict(bench, call, Observed(Status.NO_POOL, pool=2)) == "pool"
    # The checks that come first still do.
    call = bench.call("memory.populate", first=0, count=1)
    assert verdict(bench, call, Observed(Status.NO_POOL)) == "status"


def test_what_is_denied_is_refused(bench: Any) -> None:
    call = bench.call("memory.populate", first=0x100, count=2)
    fresh = tuple(bench.fresh(2))
    for denied in (0, 1):
        assert verdict(bench, call, Observed(Status.NO_MEMORY, denied=denied)) is None
        assert verdict(bench, call, Observed(Status.NO_POOL, denied=denied)) == "status"
        assert verdict(bench, call, Observed(OK, 2, fresh=fresh, denied=denied)) == "status"
    # How many table pages it takes is not predicted: `recount` judges that.
    for denied in (2, 2 + POOL_NEED - 1):
        assert verdict(bench, call, Observed(Status.NO_POOL, denied=denied)) is None
        assert verdict(bench, call, Observed(Status.NO_MEMORY, denied=denied)) == "status"
    assert verdict(bench, call, Observed(Status.NO_POOL, denied=2 + POOL_NEED)) == "status"
    # The checks that come first still do.
    call = bench.call("memory.populate", first=0, count=1)
    assert verdict(bench, call, Observed(Status.NO_MEMORY, denied=0)) == "status"
    assert verdict(bench, call, Observed(Status.EXISTS, denied=0)) is None
    call = bench.call("memory.populate", first=0x200, count=1, order=9)
    assert verdict(bench, call, Observed(Status.NO_POOL, denied=1)) is None
    # A call that needs no memory is refused none.
    call = bench.call("sched.yield")
    assert verdict(bench, call, Observed(Status.NO_MEMORY, denied=0)) == "status"


@pytest.mark.parametrize(
    ("name", "given", "pool", "rule"),
    [
        ("memory.decrease", {"first": 5, "count": 1}, 12, None),
        ("memory.decrease", {"first": 5, "count": 1}, 18, None),
        ("memory.decrease", {"first": 5, "count": 1}, 11, "pool"),
        ("device.dma_unmap", {"iova": 0, "count": 1}, 17, None),
        ("device.dma_unmap", {"iova": 0, "count": 1}, 15, "pool"),
        ("sched.block", {}, 17, "pool"),
    ],
)
def test_pool_is_adopted_within_bounds(
    bench: Any, name: str, given: dict[str, int], pool: int, rule: str | None
) -> None:
    bench.run("device.dma_map", gfn=9, count=1, rights=3)
    call = bench.call(name, **given)
    result = bench.accepts(call).result
    assert verdict(bench, call, Observed(OK, result, pool=pool)) == rule
    assert bench.state["pool", 1] == (16 if rule else pool)


def test_writes_are_exact(bench: Any) -> None:
    given = {"gfns": GVA, "out": 0x1000, "count": 2, "fetched": [(GVA, bench.words(5, 6))]}
    call = bench.call("memory.exchange", **given)
    data = bench.words(5, 6)
    fresh: Any = (1000, 1001)
    for written in (
        ((0x1000, data[:8]),),
        ((0x1008, data),),
        ((0x1000, data + b"\0"),),
        ((0x1000, bench.words(6, 5)),),
        ((0x1000, data), (0x1010, data)),
    ):
        assert verdict(bench, call, Observed(OK, 2, written, fresh)) == "written"
    assert verdict(bench, call, Observed(Status.FAULT, 0, ((0x1000, data),))) == "written"
    assert verdict(bench, call, Observed(Status.FAULT)) is None
    # The exchange may have replaced the page tables that map `out`; then nothing is written.
    checkpoint = bench.state.checkpoint()
    assert verdict(bench, call, Observed(OK, 2, (), fresh)) is None
    bench.state.rollback(checkpoint)
    pieces = ((0x1000, data[:3]), (0x1003, b""), (0x1003, data[3:]))
    assert verdict(bench, call, Observed(OK, 2, pieces, fresh)) is None


def test_every_word_is_fetched_once(bench: Any) -> None:
    bench.run("device.dma_map", gfn=9, count=1, rights=3)
    header, requests = (GVA, bench.words(1)), (GVA + 8, bench.words(0, 0, 8))
    call = bench.call("device.dma_batch", ring=GVA, fetched=[header, requests, header])
    assert verdict(bench, call, Observed(OK, 1)) == "fetched"
    call = bench.call("device.dma_batch", ring=GVA, fetched=[header, header, requests])
    assert verdict(bench, call, Observed(OK, 1)) == "fetched"
    two = (GVA, bench.words(2)), (GVA + 8, bench.words(*(0, 0, 8) * 2))
    call = bench.call("device.dma_batch", ring=GVA, fetched=[header, two[1]])
    assert verdict(bench, call, Observed(OK, 1)) == "fetched"
    call = bench.call("device.dma_batch", ring=GVA, fetched=two)
    first = bench.state[("iova", 1, 0)].frame << 12
    touched = ((False, first, 8), (True, first, 8)) * 2
    assert verdict(bench, call, Observed(OK, 2, touched=touched)) is None
    call = bench.call("sched.yield", fetched=[header])
    assert verdict(bench, call, Observed(OK, cycles=TIME_SLICE)) == "fetched"


def test_a_yield_takes_a_slice(bench: Any) -> None:
    call = bench.call("sched.yield", cycles=100)
    assert verdict(bench, call, Observed(OK, cycles=100 + 16384)) is None
    assert verdict(bench, call, Observed(OK, cycles=99 + 16384)) == "time"


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_a_copy_goes_between_the_frames_that_are_named(granted: Any, flags: int) -> None:
    names = {"from_domain": 1, "to_domain": 1, "from_": 0 if flags & 1 else 8, "to": 0 if flags & 2 else 9}
    call = granted.call("grant.copy", caller=2, flags=flags, **names, from_offset=8, to_offset=16, length=24)
    lent = granted.state[("page", 1, 8)].frame << 12
    own = {gfn: granted.state[("page", 2, gfn)].frame << 12 for gfn in (8, 9)}
    source, dest = lent if flags & 1 else own[8], lent if flags & 2 else own[9]
    right = ((False, source + 8, 24), (True, dest + 16, 24))
    assert verdict(granted, call, Observed(OK, 24, touched=right)) is None
    assert verdict(granted, call, Observed(OK, 24, touched=right, garbled=True)) == "moved"
    assert verdict(granted, call, Observed(OK, 24, touched=right[:1])) == "moved"
    assert verdict(granted, call, Observed(OK, 24, touched=right * 2)) == "moved"
    for at in range(2):
        for wrong in ((not right[at][0], *right[at][1:]), (right[at][0], right[at][1] + 8, 24), (*right[at][:2], 25)):
            touched = tuple(wrong if place == at else each for place, each in enumerate(right))
            assert verdict(granted, call, Observed(OK, 24, touched=touched)) == "moved"


def test_a_device_copies_page_by_page_and_only_where_the_tables_lead(bench: Any) -> None:
    bench.run("device.dma_map", iova=0x1000, gfn=9, count=3, rights=3)
    first = bench.state[("iova", 1, 1)].frame << 12
    call = bench.call("device.dma_submit", from_=0x1800, to=0x2FFC, length=0x900)
    pieces = [(0x800, 0x1FFC, 4), (0x804, 0x2000, 0x7FC), (0x1000, 0x27FC, 0x100)]
    right = tuple(
        touch for source, dest, size in pieces for touch in ((False, first + source, size), (True, first + dest, size))
    )
    assert verdict(bench, call, Observed(OK, 0x900, touched=right)) is None
    assert verdict(bench, call, Observed(OK, 0x900, touched=right[:-1])) == "moved"
    assert verdict(bench, call, Observed(OK, 0x900, touched=())) == "moved"
    other = bench.call("device.dma_submit", from_=0x1800, to=0x4FFC, length=0x900)
    assert verdict(bench, other, Observed(Status.FAULT)) is None
    assert verdict(bench, other, Observed(Status.FAULT, touched=right)) == "moved"


def test_a_piece_for_each_page_is_one_fetch(bench: Any) -> None:
    text = b"0123456789"
    fetched = [(0x1FF8, text[:8]), (0x2000, text[8:])]
    call = bench.call("console.write", text=0x1FF8, length=10, fetched=fetched)
    assert verdict(bench, call, Observed(OK, 10)) is None
    call = bench.call("console.write", text=0x1FF8, length=10, fetched=fetched[:1])
    assert verdict(bench, call, Observed(Status.FAULT)) is None
    assert verdict(bench, call, Observed(OK, 10)) == "status"


def test_the_hole_is_never_read(bench: Any) -> None:
    hole = 0xFFFF_8000_0000_0000
    call = bench.call("console.write", text=hole, length=2, fetched=[(hole, b"ab")])
    assert verdict(bench, call, Observed(OK, 2)) == "fetched"
    assert verdict(bench, call, Observed(Status.FAULT)) == "fetched"
    call = bench.call("console.write", text=hole, length=2)
    assert verdict(bench, call, Observed(OK, 2)) == "status"


@pytest.mark.parametrize(
    ("result", "rule"),
    [(4096, "result"), (8192, None), (12288, None), (12289, "result"), (16384, "result"), (0, "result")],
)
def test_clock_is_that_of_the_call(bench: Any, result: int, rule: str | None) -> None:
    call = bench.call("time.clock_read", cycles=9000)
    assert verdict(bench, call, Observed(OK, result, cycles=14000)) == rule


def test_clock_read_across_two_windows(bench: Any) -> None:
    for _ in range(8):
        bench.run("time.clock_read", cycles=60000)
    across = bench.call("time.clock_read", cycles=65000)
    assert verdict(bench, across, Observed(Status.AGAIN, cycles=66000)) is None
    assert verdict(bench, across, Observed(OK, 61440, cycles=66000)) == "status"
    assert verdict(bench, across, Observed(OK, 65536, cycles=66000)) is None
    later = bench.call("time.clock_read", cycles=66000)
    assert verdict(bench, later, Observed(Status.AGAIN, cycles=66500)) == "status"


def test_unknown_call_is_a_programming_error(bench: Any) -> None:
    call = bench.call("sched.yield")._replace(name="sched.sleep")
    with pytest.raises(KeyError):
        bench.judge(call, Observed(OK))


@pytest.mark.parametrize(
    ("gva", "size", "valid"),
    [
        (0xFFFF_8000_0000_0000, 0, True),
        (0, 8, True),
        ((1 << 47) - 8, 8, True),
        ((1 << 47) - 8, 9, False),
        (1 << 47, 1, False),
        (0xFFFF_7FFF_FFFF_FFFF, 1, False),
        (0xFFFF_8000_0000_0000, 1, False),
        (0xFFFF_87FF_FFFF_FFFF, 1, False),
        (0xFFFF_87FF_FFFF_FFFF, 2, False),
        (0xFFFF_8800_0000_0000, 1, True),
        (2**64 - 8, 8, True),
        (2**64 - 8, 9, False),
        (2**64 + 8, 8, False),
    ],
)
def test_valid_range(gva: int, size: int, valid: bool) -> None:
    assert valid_range(gva, size) is valid
