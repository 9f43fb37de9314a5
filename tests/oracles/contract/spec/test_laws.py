"""Laws over random histories: writes can be undone, frames are conserved, and the counts are those recounted."""

import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.oracles.contract.spec import BY_NAME, FREE, HOST_FRAME, PortState, RunState, State

GVA = 0xFFFF_8800_0001_0400
History = list[dict[str, Any]]
GFNS = (*range(5, 9), *range(0x100, 0x104))
FIELDS: dict[str, tuple[int, ...]] = {
    "first": GFNS,
    "gfn": GFNS,
    "from_": (*GFNS, *range(3), *range(0, 0x5000, 0x1000)),
    "grant.create to": (1, 2),
    "grant.create gfn": (*range(5, 9), 0x100),
    "grant.map granter": (1, 2),
    "grant.map gfn": (5, *range(0x100, 0x104)),
    "grant.map ref": (0, 1),
    "grant.unmap flags": (1, 2, 3, 3),
    "device.dma_map gfn": (*range(5, 9), 0x100),
    "to": (0, 1, 2, 2, *GFNS, *range(0, 0x5000, 0x1000)),
    "iova": tuple(range(0, 0x5000, 0x1000)),
    "count": (1, 1, 1, 2, 3),
    "order": (0,),
    "rights": (1, 3, 3, 7),
    "flags": (0, 1, 1, 2, 3, 3, 7),
    "length": (0, 1, 4096, 5000),
    "device": (0, 0, 1, 2),
    "from_domain": (0, 1, 2),
    "to_domain": (0, 1, 2),
}
OFTEN = ("grant.create", "grant.map", "grant.map", "grant.unmap", "event.bind", "event.send", "device.dma_map")
"""Calls that succeed only if others did before."""
LISTS = {"memory.exchange": GFNS, "sched.poll": (0, 0, 1, 2)}
NAMES = sorted(BY_NAME.keys() - {"device.dma_batch", "multicall", "console.write"})


def a_history(seed: int, length: int) -> History:
    """`length` calls; a shorter history of the same seed is the beginning of a longer one."""
    rng = random.Random(seed)
    history = []
    for _ in range(length):
        name = rng.choice((*NAMES, *OFTEN * 2))
        fields = BY_NAME[name].args._fields
        made = {field: rng.choice(FIELDS.get(f"{name} {field}", FIELDS.get(field, (0, 0, 1, 2)))) for field in fields}
        if name in LISTS:
            made["listed"] = [rng.choice(LISTS[name]) for _ in range(rng.randint(1, 3))]
        history.append({"name": name, "caller": rng.choice((0, 1, 1, 2, 2)), "cpu": 0, **made})
    return history


histories = st.builds(a_history, st.integers(0, 2**32), st.integers(0, 400))
small = st.integers(0, 3)


def play(bench: Any, history: History) -> None:
    for step in history:
        call = dict(step)
        listed = call.pop("listed", None)
        if listed is not None:
            width = 8 if call["name"] == "memory.exchange" else 4
            call |= {"count": len(listed), "fetched": [(GVA, bench.words(*listed, width=width))]}
            call |= {"gfns": GVA, "out": GVA, "start": 0} if width == 8 else {"ports": GVA}
        bench.run(**call)


def recount(state: State) -> None:
    """Everything that is counted, counted anew."""
    cells = state.cells
    kinds: dict[str, dict[Any, Any]] = {}
    for key, value in cells.items():
        kinds.setdefault(key[0], {})[key[1:]] = value
    frames = {hfn: frame for (hfn,), frame in kinds["frame"].items()}
    assert len(frames) + cells[FREE] == state.frames
    leaves = [*kinds["page"].items(), *kinds.get("iova", {}).items()]
    maps, pins, grants = Counter[int](), Counter[int](), Counter[int]()
    sides = {"host": Counter[Any](), "device": Counter[Any]()}
    for (domain, _), leaf in leaves:
        maps[leaf.frame] += 1
        assert (frames[leaf.frame].owner != domain) is leaf.foreign
    for (domain, _), handle in kinds.get("handle", {}).items():
        assert handle.host or handle.device
        pins[handle.frame] += handle.host + handle.device
        entry = cells[("grant", handle.granter, handle.ref)]
        assert (entry.to, entry.frame) == (domain, handle.frame)
        assert not handle.rights & ~entry.rights
        for side, counter in sides.items():
            counter[handle.granter, handle.ref] += getattr(handle, side)
        if handle.host:
            assert cells[("page", domain, handle.gfn)] == (handle.frame, handle.rights, True)
        if handle.device:
            assert cells[("iova", domain, handle.iova >> 12)] == (handle.frame, handle.rights, True)
    for key, entry in kinds.get("grant", {}).items():
        grants[entry.frame] += 1
        assert (entry.host_pins, entry.device_pins) == (sides["host"][key], sides["device"][key])
        assert cells[("page", key[0], entry.gfn)].frame == entry.frame
    buckets = set(kinds.get("bucket", {}).values())
    for hfn, frame in frames.items():
        counted = (maps[hfn], pins[hfn], grants[hfn])
        assert (frame.maps, frame.pins, frame.grants) == counted
        assert frame == HOST_FRAME or frame.maps
        assert hfn not in buckets or frame == HOST_FRAME
    for (domain, number), port in kinds.get("port", {}).items():
        assert ("bucket", domain, number // 32) in cells
        if port.state is PortState.CONNECTED:
            peer = cells[("port", port.remote, port.remote_port)]
            assert peer[:3] == (PortState.CONNECTED, domain, number)
    assert {(d, p // 32) for d, p in kinds.get("port", {})} == set(kinds.get("bucket", {}))
    polling = {key for key, run in kinds["vcpu"].items() if run == RunState.POLLING}
    assert polling == set(kinds.get("poll", {}))


@settings(max_examples=120, deadline=None)
@given(histories)
def test_counts_are_those_recounted(new_bench: Any, history: History) -> None:
    bench = new_bench(frames=300)
    play(bench, history)
    recount(bench.state)


@settings(max_examples=30, deadline=None)
@given(histories, histories, histories)
def test_histories_can_be_undone(new_bench: Any, base: History, first: History, second: History) -> None:
    bench = new_bench(frames=300)
    play(bench, base)
    state = State(bench.state.frames, bench.state.cells.items())
    bench.state = state
    before = dict(state.cells)
    play(bench, first)
    middle, cells = state.checkpoint(), dict(state.cells)
    play(bench, second)
    state.rollback(middle)
    assert state.cells == cells
    state.restore()
    assert state.cells == before
    play(bench, second)
    state.restore()
    assert state.cells == before


keys = st.tuples(st.sampled_from("ab"), small)
writes = st.lists(
    st.tuples(st.just("set"), keys, small)
    | st.tuples(st.just("delete"), keys, st.none())
    | st.tuples(st.just("update"), st.lists(keys, unique=True), small)
    | st.tuples(st.just("erase"), st.lists(keys, unique=True), st.none())
)


def write(state: State, history: list[Any]) -> None:
    for what, key, value in history:
        if what == "set":
            state[key] = value
        elif what == "delete":
            del state[key]
        elif what == "update":
            state.update(key, [value] * len(key))
        else:
            state.erase(key)


@given(st.dictionaries(keys, small), writes, writes)
def test_writes_can_be_undone(cells: dict[Any, int], first: list[Any], second: list[Any]) -> None:
    state = State(8, cells.items())
    write(state, first)
    middle, after = state.checkpoint(), dict(state.cells)
    state.begin()
    write(state, second)
    differ = {key for key in after | state.cells if after.get(key) != state.get(key)}
    assert differ <= set(state.written)
    state.rollback(middle)
    assert state.cells == after
    assert state.written == []
    state.restore()
    assert state.cells == cells
