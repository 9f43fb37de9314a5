"""Memory: reads return what was written, writes are reported, and restore undoes them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.physical_memory import BusError, PhysicalMemory

FRAMES = 4
SIZE = FRAMES * PAGE_SIZE

hpas = st.integers(0, SIZE - 1) | st.sampled_from([0, 4088, 4090, 4095, 4096, 8192, SIZE - 8, SIZE - 1])
words = st.integers(0, 2**64 - 1)
writes = st.one_of(
    st.tuples(st.just("store"), hpas, st.sampled_from([1, 2, 4, 8]), words),
    st.tuples(st.just("store64"), hpas.map(lambda hpa: hpa & ~7), words),
    st.tuples(st.just("write"), hpas, st.binary(max_size=40)),
    st.tuples(st.just("write"), hpas, st.binary(min_size=5000, max_size=5000)),
    st.tuples(st.just("fill"), st.integers(0, FRAMES - 1), st.sampled_from([0, 2**64 - 1, 0x0123_4567_89AB_CDEF])),
    st.tuples(st.just("copy"), hpas, hpas, st.integers(0, 5000)),
)


def apply_to_model(model: bytearray, op: tuple[Any, ...]) -> tuple[int, int] | None:
    """Perform `op` on plain bytes; return the (address, length) written, or None if the access must fail."""
    name, *args = op
    if name == "store":
        hpa, size, value = args
        data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    elif name == "store64":
        hpa, data = args[0], args[1].to_bytes(8, "little")
    elif name == "write":
        hpa, data = args
    elif name == "fill":
        hpa, data = args[0] * PAGE_SIZE, args[1].to_bytes(8, "little") * 512
    else:
        hpa, source, n = args
        if source + n > SIZE:
            return None
        data = bytes(model[source : source + n])
    if hpa + len(data) > SIZE:
        return None
    model[hpa : hpa + len(data)] = data
    return hpa, len(data)


@settings(max_examples=150, deadline=None)
@given(st.lists(writes, max_size=12), st.sets(st.integers(0, FRAMES - 1)), st.integers(0, 12))
def test_writes_are_kept_known_reported_and_undone(ops: list[tuple[Any, ...]], watch: set[int], early: int) -> None:
    memory = PhysicalMemory(SIZE)
    model = bytearray(SIZE)
    for frame in sorted(watch):
        memory.watched[frame] = 1
    for op in ops[:early]:
        if apply_to_model(model, op) is None:
            with pytest.raises(BusError):
                getattr(memory, op[0])(*op[1:])
        else:
            getattr(memory, op[0])(*op[1:])
    memory.snapshot()
    base = bytes(model)
    assert not memory.dirty
    assert not memory.written
    for _ in range(2):  # The second round starts from the restored state.
        dirty: set[int] = set()
        written: list[int] = []
        for op in ops[early:]:
            extent = apply_to_model(model, op)
            if extent is None:
                with pytest.raises(BusError):
                    getattr(memory, op[0])(*op[1:])
                continue
            getattr(memory, op[0])(*op[1:])
            hpa, n = extent
            touched = range(hpa & ~7, hpa + n, 8) if n else range(0)
            dirty.update(word // PAGE_SIZE for word in touched)
            written.extend(word for word in touched if word // PAGE_SIZE in watch)
        assert memory.read(0, SIZE) == bytes(memory.data) == bytes(model)
        assert list(memory.words) == [memory.load64(hpa) for hpa in range(0, SIZE, 8)]
        assert memory.dirty == dirty
        assert memory.written == written
        for frame in range(FRAMES):
            memory.watched[frame] = 0
        memory.watched[0:2] = b"\1\1"
        memory.restore()
        assert memory.read(0, SIZE) == base
        assert [frame for frame in range(FRAMES) if memory.watched[frame]] == sorted(watch)
        assert not memory.dirty
        assert not memory.written
        model[:] = base


@given(hpas, st.sampled_from([1, 2, 4, 8]))
def test_loads_are_little_endian_and_need_no_alignment(hpa: int, size: int) -> None:
    memory = PhysicalMemory(SIZE)
    memory.write(0, bytes(range(256)) * (SIZE // 256))
    if hpa + size > SIZE:
        with pytest.raises(BusError) as raised:
            memory.load(hpa, size)
        assert raised.value.hpa == hpa
    else:
        assert memory.load(hpa, size) == int.from_bytes(memory.read(hpa, size), "little")


@pytest.mark.parametrize("hpa", [-1, -8, -4096, SIZE, SIZE + 8, 1 << 40])
def test_nothing_outside_memory_is_reached(hpa: int) -> None:
    memory = PhysicalMemory(SIZE)
    for access in (
        lambda: memory.load64(hpa),
        lambda: memory.load(hpa, 1),
        lambda: memory.store64(hpa, 1),
        lambda: memory.store(hpa, 4, 1),
        lambda: memory.read(hpa, 1),
        lambda: memory.write(hpa, b"x"),
        lambda: memory.copy(hpa, 0, 8),
        lambda: memory.copy(0, hpa, 8),
        lambda: memory.fill(hpa // PAGE_SIZE),
    ):
        with pytest.raises(BusError):
            access()
    assert not memory.dirty
    assert not any(memory.data)


def test_a_word_that_is_not_aligned_is_still_a_word() -> None:
    memory = PhysicalMemory(SIZE)
    memory.store64(4092, 0x1122_3344_5566_7788)
    assert memory.load64(4092) == 0x1122_3344_5566_7788
    assert memory.dirty == {0, 1}


def test_overlapping_copy_is_a_move() -> None:
    memory = PhysicalMemory(SIZE)
    memory.write(0, b"abcdef")
    memory.copy(2, 0, 6)
    assert memory.read(0, 8) == b"ababcdef"


@pytest.mark.parametrize("size", [0, -4096, 100, 4097])
def test_memory_is_whole_frames(size: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        PhysicalMemory(size)


def test_a_large_memory_costs_what_is_used_of_it() -> None:
    memory = PhysicalMemory(1 << 30)
    memory.store64((1 << 30) - 8, 7)
    memory.snapshot()
    memory.store64((1 << 30) - 8, 8)
    memory.store64(1 << 29, 9)
    assert len(memory.dirty) == 2
    memory.restore()
    assert memory.load64((1 << 30) - 8) == 7
    assert memory.load64(1 << 29) == 0
