"""Virtio devices: negotiation, rings, requests divided in every way, and drivers that break the rules."""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.machine.addresses import PAGE_SIZE, READ, U64, WRITE
from hvfuzz.machine.clock import Clock
from hvfuzz.machine.devices.pci_function import Device
from hvfuzz.machine.devices.virtio.blk import SECTOR, SECTORS, SERIAL, VirtioBlk
from hvfuzz.machine.devices.virtio.net import CONFIG, HEADER, MAX_FRAME, RECEIVED, VirtioNet
from hvfuzz.machine.devices.virtio.register_map import (
    COMMON_FEATURES,
    DRIVER_OK,
    EVENT_IDX,
    FEATURES_OK,
    INDIRECT_DESC,
    ISR_CONFIG,
    ISR_QUEUE,
    LOG_ALL,
    NEEDS_RESET,
    VERSION_1,
    VIRTIO_ID,
    Register,
)
from hvfuzz.machine.devices.virtio.transport import VirtioDevice
from hvfuzz.machine.devices.virtio.virtqueue import INDIRECT, MAX_SIZE, NEXT
from hvfuzz.machine.devices.virtio.virtqueue import WRITE as F_WRITE
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.machine.vtd.legacy_mode import context_entry, root_entry, source_id

ROOT, CONTEXTS, TOP, MIDDLE, LEAVES = 0x10000, 0x11000, 0x12000, 0x13000, 0x14000
BDF = source_id(0, 6, 0)
FRAMES: Final = 0x20_0000
"""Hpa of IOVA 0: PAGES pages are mapped from there on, all except NONE and READ_ONLY readable and writable."""
PAGES: Final = 16
NONE, READ_ONLY = 13, 15
QUEUE: Final = 0x400
"""Queue n is at n * QUEUE, with these offsets."""
DRIVER, DEVICE, TABLE = 0x100, 0x180, 0x280
REQUEST, STATUS, DATA = 0x1000, 0x1010, 0x2000
IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
UP: Final = 3 | FEATURES_OK | DRIVER_OK

Buffer = tuple[int, int, int]
"""(IOVA, length, flags)"""


class Board:
    """A bus with one device behind the IOMMU, and its driver."""

    def __init__(self, make: Callable[["Board", int, str], VirtioDevice]) -> None:
        self.memory = PhysicalMemory(4 << 20)
        self.clock = Clock()
        self.iommu = Iommu(self.memory, self.clock)
        self.accesses: list[tuple[int, int, int]] = []
        self.access_observer: Callable[[Device, int, int, int], None] | None = self._seen
        store = self.memory.store64
        store(ROOT, root_entry(CONTEXTS))
        low, high = context_entry(1, TOP, 3)
        store(CONTEXTS + BDF * 16, low)
        store(CONTEXTS + BDF * 16 + 8, high)
        store(TOP, MIDDLE | READ | WRITE)
        store(MIDDLE, LEAVES | READ | WRITE)
        for page in range(PAGES):
            if page != NONE:
                rights = READ if page == READ_ONLY else READ | WRITE
                store(LEAVES + page * 8, FRAMES + page * PAGE_SIZE | rights)
        self.iommu.enable(ROOT)
        self.device = make(self, BDF, "virtio")
        self.available: dict[int, int] = {}

    def _seen(self, device: Device, hpa: int, size: int, access: int) -> None:
        self.accesses.append((hpa - FRAMES, size, access))

    def put(self, iova: int, data: bytes) -> None:
        self.memory.write(FRAMES + iova, data)

    def get(self, iova: int, size: int) -> bytes:
        return self.memory.read(FRAMES + iova, size)

    def number(self, iova: int, size: int) -> int:
        return int.from_bytes(self.get(iova, size), "little")

    def write(self, register: Register, value: int) -> None:
        self.device.mmio_write(register, 8, value)

    def read(self, register: Register) -> int:
        return self.device.mmio_read(register, 8)

    def up(self, features: int = VERSION_1, size: int = MAX_SIZE) -> None:
        """Initialize the device and all queues as 3.1.1 demands."""
        self.write(Register.DEVICE_STATUS, 3)
        self.write(Register.DRIVER_FEATURES, features)
        self.write(Register.DEVICE_STATUS, 3 | FEATURES_OK)
        for queue in range(len(self.device.queues)):
            self.write(Register.QUEUE_SELECT, queue)
            self.write(Register.QUEUE_SIZE, size)
            self.write(Register.QUEUE_DESC, queue * QUEUE)
            self.write(Register.QUEUE_DRIVER, queue * QUEUE + DRIVER)
            self.write(Register.QUEUE_DEVICE, queue * QUEUE + DEVICE)
            self.write(Register.QUEUE_ENABLE, 1)
            self.put(queue * QUEUE, bytes(QUEUE))
            self.available[queue] = 0
        self.write(Register.DEVICE_STATUS, UP)

    def descriptors(self, table: int, buffers: list[Buffer]) -> None:
        """A chain of these buffers, one after another in a table."""
        for at, (iova, size, flags) in enumerate(buffers):
            flags |= NEXT if at + 1 < len(buffers) else 0
            entry = iova.to_bytes(8, "little") + size.to_bytes(4, "little") + flags.to_bytes(2, "little")
            self.put(table + 16 * at, entry + (at + 1).to_bytes(2, "little"))

    def offer(self, buffers: list[Buffer], queue: int = 0) -> None:
        """Make the chain available, as the only one in the table."""
        self.descriptors(queue * QUEUE, buffers)
        self.offer_head(0, queue)

    def offer_head(self, head: int, queue: int = 0) -> None:
        ring, index = queue * QUEUE + DRIVER, self.available[queue]
        self.put(ring + 4 + 2 * (index % MAX_SIZE), head.to_bytes(2, "little"))
        self.available[queue] = index = index + 1 & 0xFFFF
        self.put(ring + 2, index.to_bytes(2, "little"))

    def kick(self, queue: int = 0) -> None:
        self.write(Register.NOTIFY, queue)

    def used(self, queue: int = 0) -> tuple[int, int, int]:
        """(index, head, bytes written) of the last used chain."""
        ring = queue * QUEUE + DEVICE
        index = self.number(ring + 2, 2)
        element = ring + 4 + 8 * ((index - 1) % MAX_SIZE)
        return index, self.number(element, 4), self.number(element + 4, 4)

    def disk(self, kind: int, sector: int, buffers: list[Buffer]) -> int:
        """Perform one request of a disk; return its status."""
        self.put(REQUEST, kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little"))
        self.put(STATUS, b"\xff")
        self.offer([(REQUEST, 16, 0), *buffers, (STATUS, 1, F_WRITE)])
        self.kick()
        return self.number(STATUS, 1)


@pytest.fixture
def blk() -> Board:
    board = Board(VirtioBlk)
    board.up()
    return board


@pytest.fixture
def net() -> Board:
    board = Board(VirtioNet)
    board.up()
    return board


class TestNegotiation:
    """Features, status and queues (2.1, 2.2, 3.1)."""

    @pytest.mark.parametrize(("make", "kind"), [(VirtioNet, 1), (VirtioBlk, 2)])
    def test_what_a_driver_finds(self, make: Callable[..., VirtioDevice], kind: int) -> None:
        board = Board(make)
        assert board.read(Register.ID) == VIRTIO_ID | kind
        assert board.read(Register.DEVICE_FEATURES) & COMMON_FEATURES == COMMON_FEATURES
        assert board.read(Register.QUEUE_SIZE) == MAX_SIZE
        assert board.read(Register.CONFIG) == (SECTORS if kind == 2 else CONFIG)
        board.write(Register.QUEUE_SELECT, 2)
        assert board.read(Register.QUEUE_SIZE) == 0, "there is no such queue"

    @pytest.mark.parametrize("features", [0, INDIRECT_DESC, VERSION_1 | 1 << 40, U64])
    def test_features_that_do_not_go_are_not_accepted(self, features: int) -> None:
        board = Board(VirtioBlk)
        board.up(features)
        assert board.read(Register.DEVICE_STATUS) == 3
        assert board.read(Register.QUEUE_ENABLE) == 0

    def test_features_and_queues_are_fixed_once_agreed_on(self, blk: Board) -> None:
        before = list(blk.device.registers)
        blk.write(Register.DRIVER_FEATURES, VERSION_1 | INDIRECT_DESC)
        for register in (Register.QUEUE_SIZE, Register.QUEUE_DESC, Register.QUEUE_DRIVER, Register.QUEUE_DEVICE):
            blk.write(register, 4)
        blk.write(Register.QUEUE_ENABLE, 0)
        blk.write(Register.DEVICE_STATUS, 3 | DRIVER_OK)
        assert blk.device.registers == before

    @pytest.mark.parametrize("size", [0, 3, MAX_SIZE + 1, 2 * MAX_SIZE, U64])
    def test_a_size_that_is_none_is_ignored(self, size: int) -> None:
        board = Board(VirtioBlk)
        board.write(Register.QUEUE_SIZE, size)
        assert board.read(Register.QUEUE_SIZE) == MAX_SIZE

    def test_nothing_is_done_before_the_driver_is_ready(self) -> None:
        board = Board(VirtioBlk)
        board.up()
        board.offer([(REQUEST, 16, 0), (STATUS, 1, F_WRITE)])
        board.write(Register.DEVICE_STATUS, 3 | FEATURES_OK)
        board.kick()
        board.write(Register.DEVICE_STATUS, UP)
        board.kick(1)
        assert board.accesses == []
        board.kick()
        assert board.used()[0] == 1

    def test_what_a_driver_resets_and_what_the_bus_does(self, blk: Board) -> None:
        blk.put(DATA, b"x" * SECTOR)
        assert blk.disk(OUT, 0, [(DATA, SECTOR, 0)]) == 0
        fresh = Board(VirtioBlk).device
        blk.write(Register.DEVICE_STATUS, 0)
        assert blk.device.registers == fresh.registers
        assert blk.device.private[:SECTOR] == b"x" * SECTOR
        blk.device.reset()
        assert blk.device.private == fresh.private

    def test_interrupts_are_acknowledged(self, blk: Board) -> None:
        blk.disk(FLUSH, 0, [])
        assert blk.read(Register.ISR) == ISR_QUEUE
        blk.write(Register.ACK, ISR_CONFIG)
        assert blk.read(Register.ISR) == ISR_QUEUE
        blk.write(Register.ACK, ISR_QUEUE)
        assert (blk.read(Register.ISR), blk.read(Register.ACK)) == (0, 0)


class TestDisk:
    """Requests (5.2.6)."""

    def test_what_is_written_is_read(self, blk: Board) -> None:
        blk.put(DATA, bytes(range(256)) * 4)
        assert blk.disk(OUT, 3, [(DATA, 1024, 0)]) == 0
        assert blk.used() == (1, 0, 1)
        assert blk.disk(IN, 4, [(DATA + 0x800, SECTOR, F_WRITE)]) == 0
        assert blk.used() == (2, 0, SECTOR + 1)
        assert blk.get(DATA + 0x800, SECTOR) == bytes(range(256)) * 2

    @pytest.mark.parametrize(
        ("kind", "sector", "size", "status"),
        [
            (IN, SECTORS, SECTOR, 1),
            (IN, SECTORS - 1, 2 * SECTOR, 1),
            (IN, U64, SECTOR, 1),
            (IN, 0, SECTOR - 1, 1),
            (IN, 0, SECTOR * SECTORS, 0),
            (GET_ID, 0, 20, 0),
            (77, 0, SECTOR, 2),
        ],
    )
    def test_what_it_answers(self, blk: Board, kind: int, sector: int, size: int, status: int) -> None:
        assert blk.disk(kind, sector, [(DATA, size, F_WRITE)]) == status
        assert blk.used() == (1, 0, 0 if status else size + 1)
        assert kind != GET_ID or blk.get(DATA, 20) == SERIAL

    def test_the_disk_is_not_written_beyond_its_end(self, blk: Board) -> None:
        assert blk.disk(OUT, SECTORS - 1, [(DATA, 2 * SECTOR, 0)]) == 1
        assert blk.device.private == bytes(SECTOR * SECTORS)

    @given(cuts=st.lists(st.integers(1, 2 * SECTOR), max_size=10), direction=st.sampled_from((IN, OUT)))
    def test_how_a_request_is_cut_does_not_matter(self, cuts: list[int], direction: int) -> None:
        """2.7.4: the device must not assume where buffers begin."""
        board = Board(VirtioBlk)
        board.up()
        content = bytes(at * 7 & 0xFF for at in range(2 * SECTOR))
        flags = F_WRITE if direction == IN else 0
        edges = sorted({0, 2 * SECTOR, *cuts})
        buffers = [
            (0x4000 + begin + (at * 0x300), end - begin, flags) for at, (begin, end) in enumerate(pairwise(edges))
        ]
        if direction == IN:
            board.device.private[SECTOR : 3 * SECTOR] = content
        else:
            for (iova, size, _), begin in zip(buffers, edges, strict=False):
                board.put(iova, content[begin : begin + size])
        assert board.disk(direction, 1, buffers) == 0
        found = b"".join(board.get(iova, size) for iova, size, _ in buffers)
        assert (found if direction == IN else board.device.private[SECTOR : 3 * SECTOR]) == content


class TestNet:
    """Frames in loopback (5.1.6)."""

    def test_a_frame_is_received_where_there_is_room(self, net: Board) -> None:
        frame = bytes(range(60))
        net.put(DATA + HEADER.size, frame)
        net.offer([(0x4000, 32, F_WRITE), (0x5000, 2048, F_WRITE)])
        net.offer([(DATA, HEADER.size, 0), (DATA + HEADER.size, 60, 0)], 1)
        net.kick(0)
        assert net.used(0)[0] == 0
        net.kick(1)
        assert (net.used(0), net.used(1)) == ((1, 0, 72), (1, 0, 0))
        assert net.get(0x4000, 32) + net.get(0x5000, 40) == RECEIVED + frame
        assert net.read(Register.ISR) == ISR_QUEUE

    def test_a_frame_without_room_is_lost_and_the_buffer_kept(self, net: Board) -> None:
        net.offer([(DATA, 72, 0)], 1)
        net.kick(1)
        net.offer([(0x4000, 71, F_WRITE)])
        net.offer_head(0, 1)
        net.kick(1)
        assert (net.used(0)[0], net.used(1)[0]) == (0, 2)
        net.descriptors(0, [(0x4000, 72, F_WRITE)])
        net.offer_head(0, 1)
        net.kick(1)
        assert (net.used(0), net.used(1)[0]) == ((1, 0, 72), 3)

    def test_a_frame_that_is_too_long_is_lost(self, net: Board) -> None:
        net.offer([(0x4000, 4096, F_WRITE)])
        net.offer([(DATA, HEADER.size + MAX_FRAME + 1, 0)], 1)
        net.kick(1)
        assert (net.used(0)[0], net.used(1)[0]) == (0, 1)
        net.descriptors(QUEUE, [(DATA, HEADER.size + MAX_FRAME, 0)])
        net.offer_head(0, 1)
        net.kick(1)
        assert (net.used(0)[0], net.used(1)[0]) == (1, 2)

    def test_a_header_cut_short_is_malformed(self, net: Board) -> None:
        net.offer([(DATA, HEADER.size - 1, 0)], 1)
        net.kick(1)
        assert net.read(Register.DEVICE_STATUS) == UP | NEEDS_RESET


class TestRings:
    """Indirect tables, notifications, the log."""

    def test_an_indirect_table_may_end_a_chain(self) -> None:
        board = Board(VirtioBlk)
        board.up(VERSION_1 | INDIRECT_DESC)
        board.put(REQUEST, GET_ID.to_bytes(16, "little"))
        board.descriptors(TABLE, [(DATA, 20, F_WRITE), (STATUS, 1, F_WRITE)])
        board.offer([(REQUEST, 16, 0), (TABLE, 32, INDIRECT)])
        board.kick()
        assert board.used() == (1, 0, 21)
        assert board.get(DATA, 20) == SERIAL

    def test_interrupts_can_be_suppressed(self, blk: Board) -> None:
        blk.put(DRIVER, b"\1\0")
        blk.disk(FLUSH, 0, [])
        assert (blk.used()[0], blk.read(Register.ISR)) == (1, 0)

    def test_the_event_index_says_when_to_interrupt(self) -> None:
        board = Board(VirtioBlk)
        board.up(VERSION_1 | EVENT_IDX)
        board.put(DRIVER + 4 + 2 * MAX_SIZE, b"\1\0")
        seen = []
        for _ in range(3):
            board.disk(FLUSH, 0, [])
            seen.append(board.read(Register.ISR))
            board.write(Register.ACK, ISR_QUEUE)
        assert seen == [0, ISR_QUEUE, 0], "when the second chain was used"
        assert board.number(DEVICE + 4 + 8 * MAX_SIZE, 2) == 3

    def test_rings_go_round(self) -> None:
        board = Board(VirtioBlk)
        board.up(size=2)
        for step in range(5):
            board.put(REQUEST, FLUSH.to_bytes(16, "little"))
            board.descriptors(0, [(REQUEST, 16, 0), (STATUS, 1, F_WRITE)])
            board.put(DRIVER + 4 + 2 * (step % 2), b"\0\0")
            board.put(DRIVER + 2, (step + 1).to_bytes(2, "little"))
            board.kick()
            assert board.number(DEVICE + 2, 2) == step + 1

    def test_every_page_written_is_logged(self) -> None:
        board = Board(VirtioBlk)
        board.up(VERSION_1 | LOG_ALL)
        board.write(Register.LOG_BASE, 0x3000)
        assert board.disk(IN, 0, [(0x5F00, SECTOR, F_WRITE)]) == 0
        assert board.number(0x3000, 8) == 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6

    @pytest.mark.parametrize("base", [NONE * PAGE_SIZE, READ_ONLY * PAGE_SIZE, 1 << 40, U64])
    def test_a_log_out_of_reach_stops_the_device(self, base: int) -> None:
        board = Board(VirtioBlk)
        board.up(VERSION_1 | LOG_ALL)
        board.write(Register.LOG_BASE, base)
        board.disk(IN, 0, [(0x5000, SECTOR, F_WRITE)])
        assert board.read(Register.DEVICE_STATUS) == UP | NEEDS_RESET
        assert board.read(Register.ERROR) == base


LOOP = [(REQUEST, 16, NEXT), (REQUEST, 16, NEXT), (REQUEST, 16, NEXT)]
MALFORMED: Final[list[list[Buffer]]] = [
    [(REQUEST, 16, 0)],
    [(REQUEST, 15, 0), (STATUS, 1, F_WRITE)],
    [(REQUEST, 16, 0), (STATUS, 0, F_WRITE)],
    [(REQUEST, 16, F_WRITE), (REQUEST, 16, 0), (STATUS, 1, F_WRITE)],
    [(U64 - 7, 16, 0), (STATUS, 1, F_WRITE)],
    [(TABLE, 0, INDIRECT)],
    [(TABLE, 24, INDIRECT)],
    [(TABLE, 16 * MAX_SIZE + 16, INDIRECT)],
    [(TABLE, 32, INDIRECT | NEXT)],
    [(0, 16, INDIRECT)],
    [(REQUEST, 16, 0)] * 15 + [(TABLE, 32, INDIRECT)],
    [(REQUEST, 16, 0)] * 15 + [(REQUEST, 16, NEXT)],
]


class TestHostileDrivers:
    """The device stops until it is reset, after bounded work, and raises nothing."""

    @pytest.mark.parametrize("buffers", MALFORMED)
    def test_malformed_chains(self, buffers: list[Buffer]) -> None:
        board = Board(VirtioBlk)
        board.up(VERSION_1 | INDIRECT_DESC)
        board.descriptors(TABLE, [(REQUEST, 16, 0), (STATUS, 1, F_WRITE)])
        board.offer(buffers)
        board.kick()
        assert board.read(Register.DEVICE_STATUS) == UP | NEEDS_RESET
        assert board.read(Register.ISR) == ISR_CONFIG
        assert board.read(Register.GENERATION) == 1
        assert not any(access & WRITE for _, _, access in board.accesses)
        board.accesses.clear()
        board.kick()
        board.write(Register.DEVICE_STATUS, UP)
        board.kick()
        assert board.accesses == []
        board.write(Register.DEVICE_STATUS, 0)
        board.up()
        assert board.disk(FLUSH, 0, []) == 0

    def test_what_was_not_negotiated_is_malformed(self, blk: Board) -> None:
        blk.descriptors(TABLE, [(REQUEST, 16, 0), (STATUS, 1, F_WRITE)])
        blk.offer([(TABLE, 32, INDIRECT)])
        blk.kick()
        assert blk.read(Register.DEVICE_STATUS) == UP | NEEDS_RESET

    def test_an_index_too_far_ahead(self, blk: Board) -> None:
        blk.put(DRIVER + 2, (MAX_SIZE + 1).to_bytes(2, "little"))
        blk.kick()
        assert blk.read(Register.DEVICE_STATUS) == UP | NEEDS_RESET

    @pytest.mark.parametrize("page", [NONE, READ_ONLY])
    def test_a_buffer_out_of_reach(self, blk: Board, page: int) -> None:
        blk.disk(IN, 0, [(page * PAGE_SIZE - 16, SECTOR, F_WRITE)])
        assert blk.read(Register.ERROR) == page * PAGE_SIZE
        assert blk.read(Register.DEVICE_STATUS) == UP | NEEDS_RESET

    @given(
        rings=st.lists(st.integers(0, U64) | st.integers(0, 0x60), min_size=96, max_size=96),
        chains=st.integers(0, MAX_SIZE),
        features=st.lists(st.sampled_from((LOG_ALL, INDIRECT_DESC, EVENT_IDX))),
        make=st.sampled_from((VirtioBlk, VirtioNet)),
    )
    def test_whatever_lies_in_memory(
        self, rings: list[int], chains: int, features: list[int], make: Callable[..., VirtioDevice]
    ) -> None:
        """No exception, and a bounded number of accesses, each to a page that is mapped and allows it."""
        board = Board(make)
        board.up(VERSION_1 | sum(set(features)))
        for queue in range(len(board.device.queues)):
            board.put(queue * QUEUE, b"".join(word.to_bytes(8, "little") for word in rings))
            board.put(queue * QUEUE + DRIVER + 2, chains.to_bytes(2, "little"))
        for queue in range(len(board.device.queues)):
            board.kick(queue)
        assert len(board.accesses) <= 2 * MAX_SIZE * (8 * MAX_SIZE + 16)
        for iova, size, access in board.accesses:
            page = iova // PAGE_SIZE
            assert 0 <= page < PAGES
            assert (iova + size - 1) // PAGE_SIZE == page != NONE
            assert page != READ_ONLY or access == READ


@given(
    make=st.sampled_from((VirtioBlk, VirtioNet)),
    features=st.integers(0, 15),
    size=st.sampled_from((1, 2, 4, 8, 16)),
    rings=st.lists(st.one_of(st.integers(0, 0x3000), st.integers(0, U64), st.just(U64 - 7)), min_size=3, max_size=3),
    words=st.lists(
        st.one_of(st.integers(0, 4), st.integers(0, 0x3000), st.integers(0, U64), st.just(1 << 48 | 1 << 32 | 16)),
        min_size=1,
        max_size=160,
    ),
    log=st.integers(0, U64),
)
def test_arbitrary_bytes_in_rings_end_in_service_or_reset(
    make: type[VirtioDevice], features: int, size: int, rings: list[int], words: list[int], log: int
) -> None:
    """Whatever the rings hold, wherever they lie: no exception leaves the device."""
    board = Board(make)
    optional = (EVENT_IDX, INDIRECT_DESC, LOG_ALL, 0)
    asked = sum(bit for number, bit in enumerate(optional) if features >> number & 1)
    board.up(VERSION_1 | asked & board.read(Register.DEVICE_FEATURES), size)
    board.write(Register.DEVICE_STATUS, 0)
    board.write(Register.DEVICE_STATUS, 3)
    board.write(Register.DRIVER_FEATURES, VERSION_1 | asked & board.read(Register.DEVICE_FEATURES))
    board.write(Register.LOG_BASE, log)
    board.write(Register.DEVICE_STATUS, 3 | FEATURES_OK)
    for queue in range(len(board.device.queues)):
        board.write(Register.QUEUE_SELECT, queue)
        board.write(Register.QUEUE_SIZE, size)
        for register, value in zip(
            (Register.QUEUE_DESC, Register.QUEUE_DRIVER, Register.QUEUE_DEVICE), rings, strict=True
        ):
            board.write(register, value)
        board.write(Register.QUEUE_ENABLE, 1)
    board.write(Register.DEVICE_STATUS, UP)
    data = b"".join(word.to_bytes(8, "little") for word in words)
    for page in range(3):
        board.put(page * PAGE_SIZE, (data * (PAGE_SIZE // len(data) + 1))[:PAGE_SIZE])
    for queue in range(len(board.device.queues)):
        board.write(Register.NOTIFY, queue)
    assert board.read(Register.DEVICE_STATUS) in (UP, UP | NEEDS_RESET)
    assert all(0 <= word <= U64 for word in board.device.registers)
