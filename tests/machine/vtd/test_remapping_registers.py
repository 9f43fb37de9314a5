"""Registers and invalidation queue of the IOMMU: every command and status; three equivalent ways to invalidate."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.machine.addresses import READ, WRITE
from hvfuzz.machine.clock import Clock
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.snapshot import Snapshot
from hvfuzz.machine.vtd.iommu import DmaFault, Iommu
from hvfuzz.machine.vtd.legacy_mode import FaultReason, TranslationType
from hvfuzz.machine.vtd.register_layout import Register
from hvfuzz.machine.vtd.walker import Context

QUEUE = 0x4_0000
STATUS = 0x5_0000
TOP = 0x6_0000
BDF = 0x0020
IOVA = 0x4020_1000
ICC = 1 << 63
GLOBAL, DOMAIN, SELECTIVE = 1, 2, 3
TE, SRTP, QIE = 1 << 31, 1 << 30, 1 << 26


class Board:
    """An IOMMU whose caches are filled directly, since invalidations do not depend on how entries were made."""

    def __init__(self, fault_records: int = 3, **options: bool) -> None:
        self.memory = PhysicalMemory(1 << 20)
        self.iommu = Iommu(self.memory, Clock(), fault_records=fault_records, **options)
        self.tail = 0

    def read(self, offset: int, size: int = 4) -> int:
        return self.iommu.registers.read(offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.iommu.registers.write(offset, size, value)

    def cache(self, *contexts: tuple[int, int]) -> None:
        """Cache a context entry for each (bdf, did), and four pages for each domain."""
        for bdf, did in contexts:
            self.iommu.context_cache[bdf] = Context(did, TOP, 3, TranslationType.TRANSLATE, False)
            for page in range(4):
                self.iommu.iotlb[(did, (IOVA >> 12) + page)] = (0x8_0000 + (page << 12), READ | WRITE)

    def start_queue(self, size_code: int = 0) -> None:
        self.write(Register.IQA, QUEUE | size_code, 8)
        self.write(Register.GCMD, QIE)

    def submit(self, *descriptors: tuple[int, int], kick: bool = True) -> None:
        for low, high in descriptors:
            self.memory.store64(QUEUE + self.tail, low)
            self.memory.store64(QUEUE + self.tail + 8, high)
            self.tail = (self.tail + 16) % 4096
        if kick:
            self.write(Register.IQT, self.tail, 8)

    def blocked(self, iova: int = IOVA, bdf: int = BDF, access: int = READ) -> None:
        """Make a request that is blocked, because the tables of its context entry are empty."""
        self.iommu.enabled = True
        self.iommu.context_cache[bdf] = Context(1, TOP, 3, TranslationType.TRANSLATE, False)
        with pytest.raises(DmaFault):
            self.iommu.translate(bdf, iova, access)


def context_descriptor(granularity: int, did: int = 0, bdf: int = 0, mask: int = 0) -> tuple[int, int]:
    return 1 | granularity << 4 | did << 16 | bdf << 32 | mask << 48, 0


def iotlb_descriptor(granularity: int, did: int = 0, iova: int = 0, order: int = 0) -> tuple[int, int]:
    return 2 | granularity << 4 | did << 16, iova & ~0xFFF | order


def wait(data: int = 0, *, status: bool = True, interrupt: bool = False) -> tuple[int, int]:
    return 5 | interrupt << 4 | status << 5 | data << 32, STATUS


# Identification and global commands


def test_capabilities_say_what_the_model_does() -> None:
    board = Board(8)
    cap = board.read(Register.CAP, 8)
    assert (cap & 7, cap >> 8 & 0x1F, (cap >> 16 & 0x3F) + 1) == (6, 0b110, 48)
    assert ((cap >> 24 & 0x3FF) * 16, (cap >> 40 & 0xFF) + 1) == (Register.FRCD, 8)
    assert (cap >> 34 & 0xF, cap >> 39 & 1, cap >> 48 & 0x3F) == (3, 1, 18)
    ecap = board.read(Register.ECAP, 8)
    assert ((ecap >> 8 & 0x3FF) * 16, ecap & 1 << 1, ecap & 1 << 6) == (Register.IVA, 1 << 1, 1 << 6)
    assert board.read(Register.VER) == 0x10
    narrow = Iommu(board.memory, Clock(), guest_width=39).registers.read(Register.CAP, 8)
    assert (narrow >> 8 & 0x1F, (narrow >> 16 & 0x3F) + 1) == (0b010, 39)


def test_global_commands_and_their_status() -> None:
    board = Board()
    assert board.read(Register.GSTS) == 0
    board.write(Register.RTADDR, 0x9_0FFF, 8)
    assert (board.iommu.root_table, board.read(Register.RTADDR, 8)) == (0, 0x9_0C00)
    board.write(Register.GCMD, SRTP)
    assert (board.iommu.root_table, board.read(Register.GSTS)) == (0x9_0000, SRTP)
    board.write(Register.GCMD, TE)
    assert board.iommu.enabled
    board.write(Register.GCMD, TE | QIE)
    assert board.read(Register.GSTS) == TE | SRTP | QIE
    assert board.read(Register.GCMD) == 0
    board.write(Register.GCMD, 0)
    assert not board.iommu.enabled
    assert board.read(Register.GSTS) == SRTP


def test_the_methods_show_in_the_registers() -> None:
    board = Board()
    board.iommu.enable(0x7_0000)
    assert board.read(Register.GSTS) == TE | SRTP
    board.iommu.disable()
    assert board.read(Register.GSTS) == SRTP


def test_changing_the_root_table_or_switching_off_leaves_the_caches() -> None:
    board = Board()
    board.cache((BDF, 1))
    board.write(Register.GCMD, TE | SRTP)
    board.write(Register.GCMD, 0)
    assert (len(board.iommu.context_cache), len(board.iommu.iotlb)) == (1, 4)


@pytest.mark.parametrize(("offset", "size"), [(1, 4), (2, 2), (0x1D, 1), (4, 8), (0x18, 16)])
def test_misaligned_and_odd_accesses_do_nothing(offset: int, size: int) -> None:
    board = Board()
    board.write(offset, 2**64 - 1, size)
    assert board.read(offset, size) == 0
    assert board.iommu.registers.words == {}
    assert not board.iommu.enabled


def test_where_no_register_is_nothing_is() -> None:
    board = Board(2)
    for offset in (0x4C, 0x58, 0xB8, 0x100, Register.FRCD + 32):
        board.write(offset, 2**64 - 1, 4)
        assert board.read(offset) == 0
    board.write(Register.CAP, 0, 8)
    assert board.read(Register.CAP, 8) != 0


# Invalidation by registers


@pytest.mark.parametrize(
    ("command", "left"),
    [
        (ICC | GLOBAL << 61, set()),
        (ICC | DOMAIN << 61 | 1, {0x21, 0x40}),
        (ICC | SELECTIVE << 61 | 0x20 << 16 | 1, {0x21, 0x24, 0x40}),
        (ICC | SELECTIVE << 61 | 0x20 << 16 | 2, {0x20, 0x21, 0x24, 0x40}),
        (ICC | SELECTIVE << 61 | 1 << 32 | 0x20 << 16 | 1, {0x21, 0x40}),
        (ICC | SELECTIVE << 61 | 3 << 32 | 0x23 << 16 | 2, {0x20, 0x24, 0x40}),
        (ICC, {0x20, 0x21, 0x24, 0x40}),
        (GLOBAL << 61, {0x20, 0x21, 0x24, 0x40}),
    ],
)
def test_context_command(command: int, left: set[int]) -> None:
    board = Board()
    board.cache((0x20, 1), (0x21, 2), (0x24, 1), (0x40, 3))
    board.write(Register.CCMD, command, 8)
    assert set(board.iommu.context_cache) == left
    assert len(board.iommu.iotlb) == 12
    after = board.read(Register.CCMD, 8)
    performed = command & ICC and command >> 61 & 3
    assert (after & ICC, after >> 59 & 3, after >> 61 & 3) == (0, performed, command >> 61 & 3)
    assert after & 0x7FF_FFFF_FFFF == command & 0xFFFF  # SID and FM are write-only.


@pytest.mark.parametrize(
    ("command", "address", "gone"),
    [
        (ICC | GLOBAL << 60, 0, {(did, page) for did in (1, 2) for page in range(4)}),
        (ICC | DOMAIN << 60 | 2 << 32, 0, {(2, page) for page in range(4)}),
        (ICC | SELECTIVE << 60 | 2 << 32, IOVA + 0x1000, {(2, 1)}),
        (ICC | SELECTIVE << 60 | 1 << 32, IOVA + 0x1000 | 1 << 6, {(1, 1)}),
        (ICC | SELECTIVE << 60 | 1 << 32, IOVA & ~0x1FFF | 1, {(1, 0)}),
        (ICC | SELECTIVE << 60 | 1 << 32, IOVA | 18, {(1, page) for page in range(4)}),
        (GLOBAL << 60, 0, set()),
    ],
)
def test_iotlb_command(command: int, address: int, gone: set[tuple[int, int]]) -> None:
    board = Board()
    board.cache((0x20, 1), (0x21, 2))
    before = set(board.iommu.iotlb)
    board.write(Register.IVA, address, 8)
    board.write(Register.IOTLB, command, 8)
    assert before - set(board.iommu.iotlb) == {(did, (IOVA >> 12) + page) for did, page in gone}
    assert len(board.iommu.context_cache) == 2
    after = board.read(Register.IOTLB, 8)
    assert (after & ICC, after >> 57 & 3) == (0, command >> 60 & 3 if command & ICC else 0)
    assert board.read(Register.IVA, 8) == 0


@pytest.mark.parametrize("command", [ICC, ICC | SELECTIVE << 60 | 1 << 32])
def test_an_invalid_iotlb_command_does_nothing_and_says_so(command: int) -> None:
    board = Board()
    board.cache((0x20, 1))
    board.write(Register.IVA, IOVA | 19, 8)
    board.write(Register.IOTLB, command, 8)
    assert len(board.iommu.iotlb) == 4
    assert board.read(Register.IOTLB, 8) >> 57 == (command >> 57) & ~(1 << 6)


def test_registers_do_not_invalidate_while_the_queue_does() -> None:
    board = Board()
    board.cache((BDF, 1))
    board.start_queue()
    board.write(Register.CCMD, ICC | GLOBAL << 61, 8)
    board.write(Register.IOTLB, ICC | GLOBAL << 60, 8)
    assert (len(board.iommu.context_cache), len(board.iommu.iotlb)) == (1, 4)
    assert board.read(Register.CCMD, 8) & ICC


# Invalidation by the queue


def test_descriptors_are_performed_in_order() -> None:
    board = Board()
    board.cache((0x20, 1), (0x21, 2))
    board.start_queue()
    board.submit(context_descriptor(SELECTIVE, 2, 0x21), iotlb_descriptor(SELECTIVE, 1, IOVA, 1), wait(0xDEADBEEF))
    assert list(board.iommu.context_cache) == [0x20]
    assert len(board.iommu.iotlb) == 7
    assert board.memory.load(STATUS, 8) == 0xDEADBEEF
    assert (board.read(Register.IQH, 8), board.read(Register.IQT, 8)) == (0x30, 0x30)
    board.submit(iotlb_descriptor(DOMAIN, 1), context_descriptor(DOMAIN, 1))
    assert board.iommu.context_cache == {}
    assert {tag[0] for tag in board.iommu.iotlb} == {2}
    board.submit(iotlb_descriptor(GLOBAL), context_descriptor(GLOBAL))
    assert board.iommu.iotlb == {}


def test_function_mask_of_a_descriptor() -> None:
    board = Board()
    board.cache((0x20, 1), (0x22, 1), (0x26, 1), (0x28, 1))
    board.start_queue()
    board.submit(context_descriptor(SELECTIVE, 1, 0x26, 1))
    assert set(board.iommu.context_cache) == {0x20, 0x28}
    board.submit(context_descriptor(SELECTIVE, 1, 0x27, 3))
    assert set(board.iommu.context_cache) == {0x28}


def test_the_queue_wraps() -> None:
    board = Board()
    board.start_queue()
    for number in range(300):
        board.submit(wait(number))
        assert board.memory.load(STATUS, 4) == number
    assert board.read(Register.IQH) == 300 * 16 % 4096


def test_a_larger_queue_wraps_later() -> None:
    board = Board()
    board.start_queue(size_code=1)
    for entry in range(512):
        board.memory.store64(QUEUE + entry * 16, wait(entry)[0])
        board.memory.store64(QUEUE + entry * 16 + 8, STATUS)
    board.write(Register.IQT, 511 * 16)
    assert board.memory.load(STATUS, 4) == 510
    board.write(Register.IQT, 0)
    assert (board.memory.load(STATUS, 4), board.read(Register.IQH)) == (511, 0)


def test_what_was_queued_before_is_performed_when_the_queue_is_switched_on() -> None:
    board = Board()
    board.submit(wait(7))
    assert board.memory.load(STATUS, 4) == 0
    board.start_queue()
    assert (board.memory.load(STATUS, 4), board.read(Register.IQH)) == (7, 16)
    board.write(Register.GCMD, 0)
    assert (board.read(Register.IQH), board.read(Register.IQT)) == (0, 16)


INVALID = [
    (0, 0),
    (3, 0),
    (4, 0),
    (6 | 1 << 4, 0),
    (0xF, 0),
    context_descriptor(0),
    iotlb_descriptor(0),
    iotlb_descriptor(SELECTIVE, 1, IOVA, 19),
    *[(context_descriptor(GLOBAL)[0] | 1 << bit, 0) for bit in (6, 15, 50, 63)],
    *[(context_descriptor(GLOBAL)[0], 1 << bit) for bit in (0, 63)],
    *[(iotlb_descriptor(GLOBAL)[0] | 1 << bit, 0) for bit in (8, 15, 32, 63)],
    *[(iotlb_descriptor(GLOBAL)[0], 1 << bit) for bit in (7, 11)],
    *[(wait()[0] | 1 << bit, STATUS) for bit in (7, 31)],
    *[(wait()[0], STATUS | 1 << bit) for bit in (0, 1)],
]


@pytest.mark.parametrize("descriptor", INVALID)
def test_an_invalid_descriptor_stops_the_queue(descriptor: tuple[int, int]) -> None:
    board = Board()
    board.cache((BDF, 1))
    board.start_queue()
    board.submit(wait(1), descriptor, iotlb_descriptor(GLOBAL))
    assert (board.read(Register.FSTS), board.read(Register.IQH)) == (1 << 4, 16)
    assert (len(board.iommu.context_cache), len(board.iommu.iotlb)) == (1, 4)
    assert (board.memory.load(STATUS, 4), board.read(Register.FECTL)) == (1, 3 << 30)
    board.submit(wait(2))
    assert board.read(Register.IQH) == 16
    board.write(Register.FSTS, 1 << 4)
    assert (board.read(Register.FSTS), board.read(Register.IQH)) == (1 << 4, 16)
    board.memory.store64(QUEUE + 16, wait(3)[0])
    board.memory.store64(QUEUE + 24, STATUS)
    board.write(Register.FSTS, 1 << 4)
    assert (board.read(Register.FSTS), board.read(Register.IQH)) == (0, 64)
    assert (board.iommu.iotlb, board.memory.load(STATUS, 4)) == ({}, 2)


@pytest.mark.parametrize("bits", [0, 1 << 6 | 1 << 7])
def test_bits_that_are_not_reserved(bits: int) -> None:
    board = Board()
    board.start_queue()
    board.submit((iotlb_descriptor(GLOBAL)[0] | bits, 1 << 6), (wait()[0] | 1 << 6, STATUS), wait(status=False))
    assert (board.read(Register.FSTS), board.read(Register.IQH)) == (0, 48)


def test_a_queue_beyond_memory_and_a_tail_beyond_the_queue() -> None:
    for address, tail in ((1 << 20, 16), (QUEUE, 4096)):
        board = Board()
        board.write(Register.IQA, address, 8)
        board.write(Register.GCMD, QIE)
        board.write(Register.IQT, tail)
        assert (board.read(Register.FSTS), board.read(Register.IQH)) == (1 << 4, 0)


def test_a_status_write_to_nowhere_is_lost() -> None:
    board = Board()
    board.start_queue()
    board.submit((wait(5)[0], 1 << 30))
    assert (board.read(Register.FSTS), board.read(Register.IQH)) == (0, 16)


def test_completion_event() -> None:
    board = Board()
    board.start_queue()
    board.submit(wait(9, interrupt=True))
    assert (board.read(Register.ICS), board.read(Register.IECTL)) == (1, 3 << 30)
    assert board.memory.load(STATUS, 4) == 9
    board.write(Register.ICS, 1)
    assert (board.read(Register.ICS), board.read(Register.IECTL)) == (0, 1 << 31)
    board.write(Register.IECTL, 0)
    board.submit(wait(interrupt=True), wait(interrupt=True))
    assert (board.read(Register.ICS), board.read(Register.IECTL), board.iommu.queue.completion.sent) == (1, 0, 1)


# Faults


def test_fault_recording_registers() -> None:
    board = Board(3)
    board.blocked(IOVA + 0x123)
    assert board.read(Register.FRCD, 8) == IOVA
    assert board.read(Register.FRCD + 8, 8) == 1 << 63 | 1 << 62 | FaultReason.READ << 32 | BDF
    board.blocked(IOVA, 0x31, WRITE)
    assert board.read(Register.FRCD + 24, 8) == 1 << 63 | FaultReason.WRITE << 32 | 0x31
    board.blocked(IOVA, 0x31, READ | WRITE)
    assert board.read(Register.FRCD + 40, 8) >> 62 == 3
    assert board.read(Register.FRCD + 40, 8) & 1 << 28
    assert board.read(Register.FSTS) == 2


def test_registers_are_used_in_turn_and_overflow() -> None:
    board = Board(3)
    for page in range(3):
        board.blocked(page << 12)
    board.write(Register.FRCD + 16 + 12, 1 << 31)
    assert [record.page for record in board.iommu.faults] == [0, 0x2000]
    board.blocked(3 << 12)  # The next register in turn is still in use, although the second is free.
    assert board.read(Register.FSTS) == 3
    for index in range(3):
        board.write(Register.FRCD + 16 * index + 12, 1 << 31)
    board.blocked(4 << 12)
    assert (board.read(Register.FSTS), board.iommu.faults) == (1, [])
    board.write(Register.FSTS, 1)
    board.blocked(5 << 12)
    board.blocked(6 << 12)
    board.write(Register.FRCD + 12, 1 << 31)
    board.blocked(7 << 12)
    assert [record.page >> 12 for record in board.iommu.faults] == [6, 7]


def test_the_first_pending_fault_is_named() -> None:
    board = Board(4)
    board.blocked()
    board.write(Register.FRCD + 12, 1 << 31)
    assert board.read(Register.FSTS) == 0
    board.blocked()
    board.blocked()
    assert board.read(Register.FSTS) == 2 | 1 << 8


def test_clearing_needs_a_one_in_f() -> None:
    board = Board()
    board.blocked()
    for offset, value in ((12, 2**31 - 1), (8, 2**32 - 1), (0, 2**32 - 1), (4, 2**32 - 1)):
        board.write(Register.FRCD + offset, value)
    board.write(Register.FSTS, 0xFFFF_FFEE & ~1)
    assert board.read(Register.FSTS) == 2


def test_compressed_faults() -> None:
    board = Board(3, compress_faults=True)
    board.blocked(0x1000)
    board.blocked(0x2000)
    board.blocked(0x3000, 0x30)
    assert [(record.bdf, record.page) for record in board.iommu.faults] == [(BDF, 0x1000), (0x30, 0x3000)]
    board.iommu.clear_faults()
    board.blocked(0x2000)
    assert [record.page for record in board.iommu.faults] == [0x2000]


def test_fault_event_is_sent_once_for_a_condition() -> None:
    board = Board()
    for offset, value in ((Register.FEDATA, 0x41), (Register.FEADDR, 0xFEE0_0003), (Register.FEUADDR, 7)):
        board.write(offset, value)
    assert board.read(Register.FEADDR, 8) == 7 << 32 | 0xFEE0_0000
    assert board.read(Register.FECTL, 8) == 0x41 << 32 | 1 << 31
    board.blocked()
    assert board.read(Register.FECTL) == 3 << 30
    board.write(Register.FECTL, 0)
    assert (board.read(Register.FECTL), board.iommu.log.event.sent) == (0, 1)
    board.blocked()
    assert board.iommu.log.event.sent == 1
    board.iommu.clear_faults()
    board.blocked()
    assert board.iommu.log.event.sent == 2


def test_a_masked_event_goes_with_its_cause() -> None:
    board = Board()
    board.blocked()
    board.start_queue()
    board.submit((0, 0))
    board.write(Register.FRCD + 12, 1 << 31)
    assert (board.read(Register.FSTS), board.read(Register.FECTL)) == (1 << 4, 3 << 30)
    board.submit(kick=False)
    board.memory.store64(QUEUE, wait(status=False)[0])
    board.write(Register.FSTS, 1 << 4)
    assert (board.read(Register.FSTS), board.read(Register.FECTL)) == (0, 1 << 31)


# Laws

DIDS = st.integers(0, 3)
BDFS = st.sampled_from([0x20, 0x21, 0x24, 0x28])
INVALIDATION = st.one_of(
    st.tuples(st.just("context"), st.integers(1, 3), DIDS, BDFS, st.integers(0, 3)),
    st.tuples(st.just("iotlb"), st.integers(1, 3), DIDS, st.integers(0, 5), st.integers(0, 3)),
)


def by_method(board: Board, kind: str, granularity: int, did: int, what: int, mask: int) -> None:
    if kind == "context":
        ignore = (0, 4, 6, 7)[mask]
        calls: list[Callable[[], None]] = [
            board.iommu.invalidate_context,
            lambda: board.iommu.invalidate_context(did=did),
            lambda: board.iommu.invalidate_context(what, did, ignore=ignore),
        ]
    else:
        calls = [
            board.iommu.invalidate_iotlb,
            lambda: board.iommu.invalidate_iotlb(did),
            lambda: board.iommu.invalidate_iotlb(did, IOVA + what * 4096, mask),
        ]
    calls[granularity - 1]()


def by_register(board: Board, kind: str, granularity: int, did: int, what: int, mask: int) -> None:
    if kind == "context":
        board.write(Register.CCMD, ICC | granularity << 61 | mask << 32 | what << 16 | did, 8)
    else:
        board.write(Register.IVA, IOVA + what * 4096 | mask, 8)
        board.write(Register.IOTLB, ICC | granularity << 60 | did << 32, 8)


def by_queue(board: Board, kind: str, granularity: int, did: int, what: int, mask: int) -> None:
    if kind == "context":
        board.submit(context_descriptor(granularity, did, what, mask))
    else:
        board.submit(iotlb_descriptor(granularity, did, IOVA + what * 4096, mask))


CACHED = st.lists(st.tuples(BDFS, DIDS), min_size=1, max_size=4)


@given(CACHED, st.lists(INVALIDATION, min_size=1, max_size=4))
def test_methods_registers_and_queue_do_the_same(
    cached: list[tuple[int, int]], invalidations: list[tuple[str, int, int, int, int]]
) -> None:
    boards = [Board(), Board(), Board()]
    boards[2].start_queue()
    for board, way in zip(boards, (by_method, by_register, by_queue), strict=True):
        board.cache(*cached)
        for invalidation in invalidations:
            way(board, *invalidation)
    for board in boards[1:]:
        assert board.iommu.context_cache == boards[0].iommu.context_cache
        assert board.iommu.iotlb == boards[0].iommu.iotlb


@given(st.lists(st.tuples(st.integers(0, 0x98), st.integers(0, 2**64 - 1)), max_size=30))
def test_any_writes_are_undone_by_a_snapshot(writes: list[tuple[int, int]]) -> None:
    board = Board()
    board.cache((BDF, 1))
    board.blocked(0)
    before = [board.read(offset) for offset in range(0, 0x300, 4)]
    snapshot = Snapshot(board.iommu)
    for word, value in writes:
        board.write(word * 4, value, 4 if word & 1 else 8)
        assert 0 <= board.read(word * 4) < 2**32
    snapshot.restore()
    assert [board.read(offset) for offset in range(0, 0x300, 4)] == before
    assert (len(board.iommu.context_cache), len(board.iommu.iotlb)) == (1, 4)


@given(
    base=st.one_of(st.just(QUEUE), st.integers(0, (1 << 64) - 1)),
    tail=st.integers(0, (1 << 64) - 1),
    words=st.lists(
        st.one_of(
            st.sampled_from((0x11, 0x21, 0x31, 0x12, 0x22, 0x32, 0x25, 0x35, 1 << 63)), st.integers(0, (1 << 64) - 1)
        ),
        min_size=2,
        max_size=64,
    ),
)
def test_arbitrary_descriptors_are_performed_or_stop_the_queue(base: int, tail: int, words: list[int]) -> None:
    """Wherever the queue lies and whatever it holds, no exception leaves the IOMMU, and the head stays in the queue."""
    board = Board()
    board.cache((BDF, 1))
    for at, word in enumerate(words):
        board.memory.store64(QUEUE + 8 * at, word)
    board.write(Register.IQA, base, 8)
    board.write(Register.GCMD, QIE)
    board.write(Register.IQT, tail, 8)
    board.write(Register.IQT, len(words) // 2 * 16, 8)
    queue = board.iommu.queue
    assert 0 <= queue.head < queue.entries
    assert queue.head == queue.tail or board.iommu.log.queue_error
