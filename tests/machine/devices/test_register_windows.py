"""DMA to registers: of another device, of the device itself, chains of devices, and the re-entrancy guard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, U64, WRITE
from hvfuzz.machine.devices.dma_engine import DMA_ENGINE_ID, DONE, ERROR, MAX_LENGTH, START, DmaEngine, Register
from hvfuzz.machine.devices.register_windows import REGISTERS_BASE, aligned_accesses, registers_of
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.snapshot import Snapshot
from hvfuzz.machine.vtd.iommu import DmaFault
from hvfuzz.machine.vtd.legacy_mode import context_entry, root_entry, source_id

BUFFER = 0x40_0000
SRC, DST, LENGTH, CONTROL = (int(register) for register in list(Register)[:4])


class Bench:
    """A machine with `engines` DMA engines; translation is off, so that a device address is an Hpa."""

    def __init__(self, engines: int = 3) -> None:
        self.machine = Machine(16 << 20)
        self.memory = self.machine.memory
        self.engines = [
            self.machine.add_device(DmaEngine(self.machine, source_id(0, 4 + number, 0), f"dma{number}"))
            for number in range(engines)
        ]
        self.seen: list[tuple[int, int, int, int]] = []
        self.machine.access_observer = lambda device, hpa, size, access: self.seen.append(
            (self.engines.index(device), hpa, size, access)
        )

    def program(self, number: int, source: int, target: int, length: int, control: int = START) -> None:
        """Program an engine as a driver does."""
        for register, value in ((SRC, source), (DST, target), (LENGTH, length), (CONTROL, control)):
            self.engines[number].mmio_write(register, 8, value)

    def status(self, number: int) -> int:
        """STATUS of an engine."""
        return self.engines[number].mmio_read(Register.STATUS, 8)

    def put(self, hpa: int, *words: int) -> int:
        """Write words to memory; return their address."""
        self.memory.write(hpa, b"".join(word.to_bytes(8, "little") for word in words))
        return hpa


@pytest.fixture
def bench() -> Bench:
    return Bench()


@given(st.integers(0, PAGE_SIZE - 1), st.integers(0, PAGE_SIZE))
def test_a_transfer_is_made_of_aligned_accesses_as_wide_as_can_be(offset: int, size: int) -> None:
    size = min(size, PAGE_SIZE - offset)
    pieces = list(aligned_accesses(offset, size))
    at = offset
    for start, width in pieces:
        assert start == at
        assert width in (1, 2, 4, 8)
        assert start % width == 0
        assert width == 8 or start & width or start + 2 * width > offset + size, "wider would not do"
        at += width
    assert at == offset + size


def test_one_engine_programs_another(bench: Bench) -> None:
    bench.memory.write(BUFFER, b"peer to peer")
    order = bench.put(BUFFER + 0x100, BUFFER, BUFFER + 0x800, 12, START)
    bench.program(0, order, registers_of(1), 32)
    assert (bench.status(0), bench.status(1), bench.status(2)) == (DONE, DONE, 0)
    assert bench.memory.read(BUFFER + 0x800, 12) == b"peer to peer"
    assert bench.seen == [
        (0, order, 32, READ),
        (0, registers_of(1), 32, WRITE),
        (1, BUFFER, 12, READ),
        (1, BUFFER + 0x800, 12, WRITE),
    ], "everybody's accesses are seen"


def test_registers_are_read_by_dma(bench: Bench) -> None:
    bench.program(1, 0x1122_3344_5566_7788, 5, MAX_LENGTH + 1, control=0)
    bench.program(0, registers_of(1), BUFFER, 0x40)
    expected = (0x1122_3344_5566_7788, 5, MAX_LENGTH, 0, 0, 0, DMA_ENGINE_ID, 0)
    assert bench.memory.read(BUFFER, 0x40) == b"".join(word.to_bytes(8, "little") for word in expected)
    bench.program(0, registers_of(1) + 3, BUFFER, 7)
    assert bench.memory.read(BUFFER, 7) == expected[0].to_bytes(8, "little")[3:] + b"\5\0"


def test_a_narrow_write_keeps_the_other_bytes(bench: Bench) -> None:
    bench.program(1, U64, U64, 0, control=0)
    bench.put(BUFFER, 0)
    bench.program(0, BUFFER, registers_of(1) + 6, 5)
    assert bench.engines[1].mmio_read(SRC, 8) == 0x0000_FFFF_FFFF_FFFF
    assert bench.engines[1].mmio_read(DST, 8) == 0xFFFF_FFFF_FF00_0000


def test_an_engine_that_writes_its_own_control_does_not_start_again(bench: Bench) -> None:
    order = bench.put(BUFFER, BUFFER + 0x100, BUFFER + 0x200, 8, START)
    bench.put(BUFFER + 0x100, 0x77)
    bench.program(0, order, registers_of(0), 32)
    assert bench.status(0) == DONE
    assert bench.memory.load64(BUFFER + 0x200) == 0, "its registers did not answer"
    assert bench.engines[0].mmio_read(SRC, 8) == order
    assert not bench.engines[0].busy
    assert len(bench.seen) == 2


def test_an_engine_reads_ones_from_its_own_registers(bench: Bench) -> None:
    bench.program(0, registers_of(0), BUFFER, 64)
    assert bench.memory.read(BUFFER, 65) == b"\xff" * 64 + b"\0"
    assert bench.engines[0].mmio_read(Register.ID, 8) == DMA_ENGINE_ID, "to the driver they answer"


def test_a_ring_of_engines_ends_where_it_began(bench: Bench) -> None:
    """0 starts 1, 1 starts 2, and 2 would start 0, which is busy until the others are done."""
    start = bench.put(BUFFER, START)
    for number in (1, 2):
        bench.program(number, start, registers_of((number + 1) % 3) + CONTROL, 8, control=0)
    bench.program(0, start, registers_of(1) + CONTROL, 8)
    assert [bench.status(number) for number in range(3)] == [DONE] * 3
    assert [number for number, _, _, access in bench.seen if access == WRITE] == [0, 1, 2]
    assert not any(engine.busy for engine in bench.engines)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 6), st.integers(0, 64), st.integers(0, 1)),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.integers(0, 6), min_size=8, max_size=8),
)
def test_every_chain_ends_and_nobody_stays_busy(orders: list[tuple[int, int, int, int, int]], words: list[int]) -> None:
    bench = Bench()
    places = [*(registers_of(number) for number in range(4)), BUFFER, BUFFER + 0x20, registers_of(1) + CONTROL]
    bench.put(BUFFER, *(places[word] for word in words[:3]), START, *(places[word] for word in words[3:6]), 64, START)
    for number, source, target, length, control in orders:
        bench.seen.clear()
        bench.program(number, places[source], places[target], length, control)
        # A copy is one piece of two accesses, and starts a chain for each order it may contain.
        assert len(bench.seen) <= 2 * (1 + 8 + 64)
        assert not any(engine.busy for engine in bench.engines)


def test_a_copy_that_is_blocked_on_the_way_frees_everybody(bench: Bench) -> None:
    """Engine 1 has no context entry: its copy is blocked, which does not affect the engine that started it."""
    memory, first = bench.memory, bench.engines[0].bdf
    low, high = context_entry(1, 0x12000, 3)
    memory.store64(0x10000, root_entry(0x11000))
    memory.store64(0x11000 + first * 16, low)
    memory.store64(0x11000 + first * 16 + 8, high)
    memory.store64(0x12000, 0x13000 | READ | WRITE)
    memory.store64(0x13000, 0x14000 | READ | WRITE)
    memory.store64(0x14000, BUFFER | READ)
    memory.store64(0x14008, registers_of(1) | WRITE)
    bench.put(BUFFER, 0, 0, 8, START)
    bench.machine.iommu.enable(0x10000)
    bench.program(0, 0, PAGE_SIZE, 32)
    assert (bench.status(0), bench.status(1)) == (DONE, ERROR)
    assert not any(engine.busy for engine in bench.engines)
    with pytest.raises(DmaFault):
        bench.engines[0].dma_read(PAGE_SIZE, 8)


def test_where_no_device_is_nothing_answers(bench: Bench) -> None:
    for hpa in (registers_of(3), REGISTERS_BASE - PAGE_SIZE, 0xFED9_0000):
        bench.program(0, hpa, BUFFER, 16)
        assert bench.memory.read(BUFFER, 16) == b"\xff" * 16
        bench.program(0, BUFFER, hpa, 16)
        assert bench.status(0) == DONE


def test_a_page_is_where_the_transfer_stops(bench: Bench) -> None:
    """A copy across the end of one device's page continues in the next page, as a separate piece."""
    bench.put(BUFFER, 0x55, 0x66)
    bench.program(0, BUFFER, registers_of(2) - 8, 16)
    assert bench.engines[2].mmio_read(SRC, 8) == 0x66
    assert [hpa & PAGE_MASK for _, hpa, _, access in bench.seen if access == WRITE] == [PAGE_SIZE - 8, 0]


def test_registers_written_by_dma_are_put_back(bench: Bench) -> None:
    bench.machine.access_observer = None
    snapshot = Snapshot(bench.machine)
    bench.put(BUFFER, 0x55)
    bench.program(0, BUFFER, registers_of(1), 8)
    snapshot.restore()
    assert [engine.mmio_read(SRC, 8) for engine in bench.engines] == [0, 0, 0]


def test_there_has_to_be_room_for_the_registers() -> None:
    machine = Machine(1 << 20)
    for number in range(256):
        machine.add_device(DmaEngine(machine, number, f"dma{number}"))
    with pytest.raises(ValueError, match="no room"):
        machine.add_device(DmaEngine(machine, 256, "dma256"))
