"""The DMA engine: register accesses of every size, and copies page by page through the IOMMU."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.machine.addresses import PAGE_SIZE, READ, U64, WRITE
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.devices.dma_engine import DMA_ENGINE_ID, DONE, ERROR, MAX_LENGTH, START, DmaEngine, Register
from hvfuzz.machine.devices.pci_function import Device
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.snapshot import Snapshot
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.machine.vtd.legacy_mode import FaultReason, context_entry, root_entry, source_id

ROOT, CONTEXTS, TOP, MIDDLE, LEAVES = 0x10000, 0x11000, 0x12000, 0x13000, 0x14000
BDF = source_id(0, 3, 0)
BASE = 0x4000_0000
"""First of 512 IOVA pages that the leaf table can map."""
FRAMES = 0x20_0000
RW = READ | WRITE


class Board:
    """A bus with one engine, and a second-level table of 512 pages at BASE."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(16 << 20)
        self.clock = Clock()
        self.iommu = Iommu(self.memory, self.clock)
        self.access_observer: Callable[[Device, int, int, int], None] | None = None
        self.memory.store64(ROOT, root_entry(CONTEXTS))
        low, high = context_entry(1, TOP, 3)
        self.memory.store64(CONTEXTS + BDF * 16, low)
        self.memory.store64(CONTEXTS + BDF * 16 + 8, high)
        self.memory.store64(TOP + (BASE >> 30) * 8, MIDDLE | RW)
        self.memory.store64(MIDDLE, LEAVES | RW)
        self.iommu.enable(ROOT)
        self.engine = DmaEngine(self, BDF, "dma0")
        self.devices = [self.engine]

    def map(self, page: int, hpa: int, rights: int = RW) -> None:
        self.memory.store64(LEAVES + page * 8, hpa | rights)

    def copy(self, source: int, destination: int, length: int) -> int:
        """Program the engine, start it, and return STATUS."""
        for register, value in (
            (Register.SRC, source),
            (Register.DST, destination),
            (Register.LENGTH, length),
            (Register.CONTROL, START),
        ):
            self.engine.mmio_write(register, 8, value)
        return self.engine.mmio_read(Register.STATUS, 8)


@pytest.fixture
def board() -> Board:
    board = Board()
    for page in range(8):
        board.map(page, FRAMES + page * PAGE_SIZE)
    return board


def test_a_machine_takes_devices_and_snapshots_them() -> None:
    machine = Machine()
    engine = machine.add_device(DmaEngine(machine, BDF, "dma0"))
    snapshot = Snapshot(machine)
    before = list(engine.registers)
    machine.memory.store64(ROOT, root_entry(CONTEXTS))
    machine.iommu.enable(ROOT)
    engine.mmio_write(Register.LENGTH, 8, 64)
    engine.mmio_write(Register.CONTROL, 8, START)
    assert engine.mmio_read(Register.STATUS, 8) == ERROR
    assert [fault.reason for fault in machine.iommu.faults] == [FaultReason.CONTEXT_NOT_PRESENT]
    snapshot.restore()
    assert engine.registers == before
    assert (machine.iommu.faults, machine.iommu.enabled, machine.iommu.root_table) == ([], False, 0)


# Registers


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_partial_reads(board: Board, size: int) -> None:
    value = 0x8877_6655_4433_2211
    board.engine.mmio_write(Register.SRC, 8, value)
    for offset in range(0, 8, size):
        expected = value >> 8 * offset & (1 << 8 * size) - 1
        assert board.engine.mmio_read(Register.SRC + offset, size) == expected


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_partial_writes_keep_the_other_bytes(board: Board, size: int) -> None:
    for offset in range(0, 8, size):
        board.engine.mmio_write(Register.DST, 8, U64)
        board.engine.mmio_write(Register.DST + offset, size, 1 << 70)
        cleared = ((1 << 8 * size) - 1) << 8 * offset
        assert board.engine.mmio_read(Register.DST, 8) == U64 & ~cleared


@pytest.mark.parametrize(
    ("offset", "size"),
    [(1, 2), (2, 4), (4, 8), (7, 2), (0, 3), (0, 16), (0, 0), (0x38, 8), (0xFF8, 8), (0x1000, 4), (-8, 8)],
)
def test_misaligned_crossing_and_unknown_accesses_do_nothing(board: Board, offset: int, size: int) -> None:
    board.engine.mmio_write(Register.SRC, 8, 0x1111_1111_1111_1111)
    before = list(board.engine.registers)
    assert board.engine.mmio_read(offset, size) == 0
    board.engine.mmio_write(offset, size, U64)
    assert board.engine.registers == before


def test_length_is_clamped_and_read_only_registers_stay(board: Board) -> None:
    board.engine.mmio_write(Register.LENGTH, 8, MAX_LENGTH + 1)
    assert board.engine.mmio_read(Register.LENGTH, 8) == MAX_LENGTH
    board.engine.mmio_write(Register.LENGTH + 7, 1, 0xFF)
    assert board.engine.mmio_read(Register.LENGTH, 8) == MAX_LENGTH
    for register in (Register.STATUS, Register.ERROR, Register.ID):
        before = board.engine.mmio_read(register, 8)
        board.engine.mmio_write(register, 8, U64)
        assert board.engine.mmio_read(register, 8) == before
    assert board.engine.mmio_read(Register.ID, 8) == DMA_ENGINE_ID


def test_only_bit_0_of_control_starts(board: Board) -> None:
    board.engine.mmio_write(Register.CONTROL, 8, U64 & ~START)
    board.engine.mmio_write(Register.CONTROL + 4, 4, 0xFFFF_FFFF)
    assert board.engine.mmio_read(Register.STATUS, 8) == 0
    board.engine.mmio_write(Register.CONTROL, 1, START)
    assert board.engine.mmio_read(Register.STATUS, 8) == DONE
    assert board.engine.mmio_read(Register.CONTROL, 8) == 0


def test_reset_leaves_nothing_of_the_former_user(board: Board) -> None:
    fresh = list(board.engine.registers)
    board.copy(BASE, BASE + 100 * PAGE_SIZE, 64)
    board.engine.reset()
    assert board.engine.registers == fresh


# DMA


def test_copies_within_pages(board: Board) -> None:
    board.memory.write(FRAMES + 0x10, b"0123456789")
    assert board.copy(BASE + 0x10, BASE + PAGE_SIZE + 0x20, 10) == DONE
    assert board.memory.read(FRAMES + PAGE_SIZE + 0x1F, 12) == b"\0" + b"0123456789" + b"\0"
    assert board.engine.mmio_read(Register.ERROR, 8) == 0


def test_page_whose_frames_are_not_neighbours(board: Board) -> None:
    board.map(0, FRAMES + 6 * PAGE_SIZE)
    board.map(1, FRAMES)
    board.memory.write(FRAMES + 7 * PAGE_SIZE - 4, b"abcd")
    board.memory.write(FRAMES, b"efgh")
    assert board.copy(BASE + PAGE_SIZE - 4, BASE + 2 * PAGE_SIZE, 8) == DONE
    assert board.memory.read(FRAMES + 2 * PAGE_SIZE, 8) == b"abcdefgh"


@pytest.mark.parametrize("blocked", ["source", "destination"])
def test_second_page_blocked_leaves_the_first_written(board: Board, blocked: str) -> None:
    board.memory.write(FRAMES, bytes([7]) * 2 * PAGE_SIZE)
    source, destination = BASE + 0x800, BASE + 4 * PAGE_SIZE + 0x800
    board.map(1 if blocked == "source" else 5, 0, 0)
    assert board.copy(source, destination, PAGE_SIZE) == ERROR
    at = (source if blocked == "source" else destination) + 0x800
    assert board.engine.mmio_read(Register.ERROR, 8) == at
    assert board.memory.read(FRAMES + 4 * PAGE_SIZE + 0x800, 0x800) == bytes([7]) * 0x800
    assert board.memory.read(FRAMES + 5 * PAGE_SIZE, 0x800) == bytes(0x800)
    reason = FaultReason.READ if blocked == "source" else FaultReason.WRITE
    assert [(fault.reason, fault.page) for fault in board.iommu.faults] == [(reason, at)]


def test_next_copy_clears_the_error(board: Board) -> None:
    assert board.copy(BASE + 20 * PAGE_SIZE, BASE, 8) == ERROR
    assert board.copy(BASE, BASE + PAGE_SIZE, 8) == DONE
    assert board.engine.mmio_read(Register.ERROR, 8) == 0


def test_rights_are_those_of_each_side(board: Board) -> None:
    board.map(0, FRAMES, READ)
    board.map(1, FRAMES + PAGE_SIZE, WRITE)
    assert board.copy(BASE, BASE + PAGE_SIZE, 8) == DONE
    assert board.copy(BASE + PAGE_SIZE, BASE + 2 * PAGE_SIZE, 8) == ERROR
    assert board.copy(BASE + 2 * PAGE_SIZE, BASE, 8) == ERROR


def test_stale_translation_lets_a_device_reach_the_old_frame(board: Board) -> None:
    assert board.copy(BASE, BASE + PAGE_SIZE, 8) == DONE
    board.map(1, 0, 0)
    board.memory.write(FRAMES, b"intruder")
    assert board.copy(BASE, BASE + PAGE_SIZE, 8) == DONE
    assert board.memory.read(FRAMES + PAGE_SIZE, 8) == b"intruder"
    board.iommu.invalidate_iotlb(1)
    assert board.copy(BASE, BASE + PAGE_SIZE, 8) == ERROR


def test_iova_wraps_at_64_bits(board: Board) -> None:
    assert board.copy(BASE, U64 - 7, 16) == ERROR
    assert board.engine.mmio_read(Register.ERROR, 8) == U64 - 7


def test_a_range_that_wraps_goes_on_at_zero(board: Board) -> None:
    board.iommu.disable()
    board.memory.write(FRAMES, b"to nobodto zero.")
    assert board.copy(FRAMES, U64 - 7, 16) == DONE
    assert board.memory.read(0, 9) == b"to zero.\0"


def test_no_memory_reads_ones_and_drops_writes(board: Board) -> None:
    board.map(1, 1 << 30)
    assert board.copy(BASE + PAGE_SIZE, BASE, 8) == DONE
    assert board.memory.load64(FRAMES) == U64
    assert board.copy(BASE, BASE + PAGE_SIZE, 8) == DONE


def test_every_physical_access_is_reported(board: Board) -> None:
    seen: list[tuple[Device, int, int, int]] = []
    board.access_observer = lambda *access: seen.append(access)
    board.copy(BASE + 0xF00, BASE + 3 * PAGE_SIZE, 0x300)
    assert seen == [
        (board.engine, FRAMES + 0xF00, 0x100, READ),
        (board.engine, FRAMES + 3 * PAGE_SIZE, 0x100, WRITE),
        (board.engine, FRAMES + 0x1000, 0x200, READ),
        (board.engine, FRAMES + 3 * PAGE_SIZE + 0x100, 0x200, WRITE),
    ]


def test_access_is_reported_before_it_is_made(board: Board) -> None:
    board.memory.store64(FRAMES, 1)
    seen: list[int] = []
    board.access_observer = lambda device, hpa, size, access: seen.append(board.memory.load64(FRAMES + PAGE_SIZE))
    board.copy(BASE, BASE + PAGE_SIZE, 8)
    assert seen == [0, 0]
    assert board.memory.load64(FRAMES + PAGE_SIZE) == 1


def test_interrupt_range_is_no_memory(board: Board) -> None:
    seen: list[int] = []
    board.access_observer = lambda device, hpa, size, access: seen.append(hpa)
    assert board.copy(0xFEE0_0000, BASE, 8) == DONE
    assert board.memory.load64(FRAMES) == U64
    assert board.copy(BASE, 0xFEE0_0000, 8) == DONE
    assert seen == [FRAMES, FRAMES]


def test_copy_takes_time_by_its_length(board: Board) -> None:
    board.copy(BASE, BASE + PAGE_SIZE, 1)
    times = []
    for length in (64, 65):
        before = board.clock.cycles
        board.copy(BASE, BASE + PAGE_SIZE, length)
        times.append(board.clock.cycles - before)
    assert times[1] - times[0] == 2 * Cost.COPY_PER_64B


@given(st.integers(0, 3 * PAGE_SIZE), st.integers(0, 3 * PAGE_SIZE), st.integers(0, MAX_LENGTH))
def test_a_copy_is_a_copy(source: int, destination: int, length: int) -> None:
    """If the ranges do not overlap, the result is that of one slice assignment, for any alignment."""
    board = Board()
    order = [3, 0, 4, 1, 2, 9, 8, 6, 5, 7]
    for page, frame in enumerate(order):
        board.map(page, FRAMES + frame * PAGE_SIZE)
    content = bytearray(10 * PAGE_SIZE)
    for page, frame in enumerate(order):
        fill = bytes((page * 31 + i * 7) & 0xFF for i in range(64)) * 64
        content[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = fill
        board.memory.write(FRAMES + frame * PAGE_SIZE, fill)
    destination += 5 * PAGE_SIZE
    length = min(length, 10 * PAGE_SIZE - destination)
    assert board.copy(BASE + source, BASE + destination, length) == DONE
    content[destination : destination + length] = content[source : source + length]
    result = b"".join(board.memory.read(FRAMES + frame * PAGE_SIZE, PAGE_SIZE) for frame in order)
    assert result == content
