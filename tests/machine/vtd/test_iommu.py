"""The IOMMU: every fault reason, both widths, superpages, and stale cache entries."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.machine.addresses import PAGE_SIZE, READ, WRITE
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.fault_log import FaultRecord
from hvfuzz.machine.vtd.iommu import CONTEXT_CAPACITY, FAULT_RECORDS, DmaFault, Iommu
from hvfuzz.machine.vtd.legacy_mode import FPD, FaultReason, context_entry, root_entry, source_id
from hvfuzz.machine.vtd.walker import STAGE_CONTEXT, STAGE_ROOT, STAGE_SECOND_LEVEL

ROOT = 0x10000
CONTEXTS = 0x11000
TOP = 0x12000
FIRST_FREE = 0x13000
BDF = source_id(0, 3, 0)
OTHER_BDF = source_id(0, 4, 0)
DID = 5
IOVA = 0x40_2010_0000 & (1 << 39) - 1
PAGE_A = 0x20_0000
PAGE_B = 0x40_0000
NOWHERE = 1 << 36
RW = READ | WRITE


class Platform:
    """An IOMMU, with tables in memory that a test can corrupt."""

    def __init__(self, levels: int = 3, guest_width: int = 48) -> None:
        self.memory = PhysicalMemory(16 << 20)
        self.clock = Clock()
        self.iommu = Iommu(self.memory, self.clock, guest_width=guest_width)
        self.levels = levels
        self.free = FIRST_FREE
        self.memory.store64(ROOT, root_entry(CONTEXTS))
        self.attach(BDF, DID, TOP)
        self.iommu.enable(ROOT)

    def attach(self, bdf: int, did: int, table: int, *, fpd: bool = False) -> None:
        low, high = context_entry(did, table, self.levels, fpd=fpd)
        self.set_context(bdf, low, high)

    def set_context(self, bdf: int, low: int, high: int) -> None:
        self.memory.store64(CONTEXTS + (bdf & 0xFF) * 16, low)
        self.memory.store64(CONTEXTS + (bdf & 0xFF) * 16 + 8, high)

    def entry_address(self, iova: int, level: int = 1, top: int = TOP) -> int:
        """Hpa of the entry of `level` for `iova`; creates missing tables above it."""
        table = top
        for at in range(self.levels, level, -1):
            address = table + (iova >> 3 + 9 * at & 511) * 8
            if not self.memory.load64(address) & 3:
                self.memory.store64(address, self.free | RW)
                self.free += PAGE_SIZE
            table = self.memory.load64(address) & ~0xFFF
        return table + (iova >> 3 + 9 * level & 511) * 8

    def map(self, iova: int, hpa: int, rights: int = RW, level: int = 1, top: int = TOP) -> None:
        self.memory.store64(self.entry_address(iova, level, top), hpa | rights | (0x80 if level > 1 else 0))

    def dma(self, iova: int, access: int = READ, bdf: int = BDF) -> int | FaultReason:
        try:
            return self.iommu.translate(bdf, iova, access)
        except DmaFault as fault:
            return fault.reason


@pytest.fixture(params=[3, 4], ids=["39-bit", "48-bit"])
def platform(request: pytest.FixtureRequest) -> Platform:
    return Platform(levels=request.param)


def test_translates_a_page(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    assert platform.dma(IOVA + 0x123) == PAGE_A + 0x123
    assert platform.dma(IOVA + 0xFFF, WRITE) == PAGE_A + 0xFFF
    assert platform.dma(IOVA + PAGE_SIZE) is FaultReason.READ


@pytest.mark.parametrize("level", [2, 3])
def test_superpage(platform: Platform, level: int) -> None:
    size = 1 << 3 + 9 * level
    platform.map(size, 0 if level == 3 else PAGE_A, level=level)
    base = 0 if level == 3 else PAGE_A
    assert platform.dma(size + size - 1) == base + size - 1
    assert platform.dma(size + 0x5008, WRITE) == base + 0x5008
    assert platform.dma(2 * size) is FaultReason.READ


def test_rights_of_all_levels_are_anded(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    upper = platform.entry_address(IOVA, 2)
    platform.memory.store64(upper, platform.memory.load64(upper) & ~WRITE)
    assert platform.dma(IOVA) == PAGE_A
    assert platform.iommu.iotlb[(DID, IOVA >> 12)] == (PAGE_A, READ)
    assert platform.dma(IOVA, WRITE) is FaultReason.WRITE
    assert platform.dma(IOVA, RW) is FaultReason.WRITE


def test_write_only_page(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A, WRITE)
    assert platform.dma(IOVA, WRITE) == PAGE_A
    assert platform.dma(IOVA, READ) is FaultReason.READ
    assert platform.dma(IOVA, RW) is FaultReason.READ


def test_software_bits_are_ignored(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A | 0x3FF << 52 | 1 << 63 | 0x7FC)
    assert platform.dma(IOVA) == PAGE_A


# Fault reasons


def no_root(p: Platform) -> None:
    p.memory.store64(ROOT, CONTEXTS)


def no_context(p: Platform) -> None:
    p.set_context(BDF, 0, 0)


def device_tlb_type(p: Platform) -> None:
    low, high = context_entry(DID, TOP, p.levels)
    p.set_context(BDF, low | 1 << 2, high)


def reserved_type(p: Platform) -> None:
    low, high = context_entry(DID, TOP, p.levels)
    p.set_context(BDF, low | 3 << 2, high)


def width_of(code: int) -> Callable[[Platform], None]:
    def bend(p: Platform) -> None:
        p.set_context(BDF, TOP | 1, DID << 8 | code)

    return bend


def top_table_nowhere(p: Platform) -> None:
    p.attach(BDF, DID, NOWHERE)


def leaf_without(right: int) -> Callable[[Platform], None]:
    def bend(p: Platform) -> None:
        p.map(IOVA, PAGE_A, RW & ~right)

    return bend


def table_nowhere(p: Platform) -> None:
    p.memory.store64(p.entry_address(IOVA, 2), NOWHERE | RW)


def root_table_nowhere(p: Platform) -> None:
    p.iommu.enable(NOWHERE)


def context_table_nowhere(p: Platform) -> None:
    p.memory.store64(ROOT, root_entry(NOWHERE))


def root_bits(low: int, high: int = 0) -> Callable[[Platform], None]:
    def bend(p: Platform) -> None:
        p.memory.store64(ROOT, root_entry(CONTEXTS) | low)
        p.memory.store64(ROOT + 8, high)

    return bend


def context_bits(low: int, high: int = 0) -> Callable[[Platform], None]:
    def bend(p: Platform) -> None:
        old_low, old_high = context_entry(DID, TOP, p.levels)
        p.set_context(BDF, old_low | low, old_high | high)

    return bend


def entry_bits(bits: int, level: int = 1) -> Callable[[Platform], None]:
    def bend(p: Platform) -> None:
        address = p.entry_address(IOVA, level)
        p.memory.store64(address, p.memory.load64(address) | bits)

    return bend


def large_page_bits(bits: int, level: int) -> Callable[[Platform], None]:
    def bend(p: Platform) -> None:
        p.memory.store64(p.entry_address(IOVA, level), bits | RW | 0x80)

    return bend


def into_interrupt_range(p: Platform) -> None:
    p.map(IOVA, 0xFEE0_3000)


BENT = [
    (no_root, FaultReason.ROOT_NOT_PRESENT),
    (no_context, FaultReason.CONTEXT_NOT_PRESENT),
    (device_tlb_type, FaultReason.CONTEXT_INVALID),
    (reserved_type, FaultReason.CONTEXT_INVALID),
    (width_of(0), FaultReason.CONTEXT_INVALID),
    (width_of(3), FaultReason.CONTEXT_INVALID),
    (width_of(7), FaultReason.CONTEXT_INVALID),
    (top_table_nowhere, FaultReason.CONTEXT_INVALID),
    (leaf_without(READ), FaultReason.READ),
    (leaf_without(RW), FaultReason.READ),
    (table_nowhere, FaultReason.TABLE_ACCESS),
    (root_table_nowhere, FaultReason.ROOT_TABLE_ACCESS),
    (context_table_nowhere, FaultReason.CONTEXT_TABLE_ACCESS),
    (root_bits(1 << 1), FaultReason.ROOT_RESERVED),
    (root_bits(1 << 11), FaultReason.ROOT_RESERVED),
    (root_bits(1 << 40), FaultReason.ROOT_RESERVED),
    (root_bits(0, 1), FaultReason.ROOT_RESERVED),
    (context_bits(1 << 4), FaultReason.CONTEXT_RESERVED),
    (context_bits(1 << 63), FaultReason.CONTEXT_RESERVED),
    (context_bits(0, 1 << 7), FaultReason.CONTEXT_RESERVED),
    (context_bits(0, 1 << 24), FaultReason.CONTEXT_RESERVED),
    (entry_bits(1 << 11), FaultReason.TABLE_RESERVED),
    (entry_bits(1 << 62), FaultReason.TABLE_RESERVED),
    (entry_bits(1 << 40), FaultReason.TABLE_RESERVED),
    (entry_bits(1 << 51), FaultReason.TABLE_RESERVED),
    (entry_bits(1 << 11, 2), FaultReason.TABLE_RESERVED),
    (entry_bits(1 << 40, 3), FaultReason.TABLE_RESERVED),
    (large_page_bits(1 << 12, 2), FaultReason.TABLE_RESERVED),
    (large_page_bits(1 << 29, 3), FaultReason.TABLE_RESERVED),
    (into_interrupt_range, FaultReason.INTERRUPT_RANGE),
]
UNQUALIFIED = {
    FaultReason.ROOT_NOT_PRESENT,
    FaultReason.ROOT_TABLE_ACCESS,
    FaultReason.CONTEXT_TABLE_ACCESS,
    FaultReason.ROOT_RESERVED,
}


@pytest.mark.parametrize(("bend", "reason"), BENT)
def test_fault_reason(platform: Platform, bend: Callable[[Platform], None], reason: FaultReason) -> None:
    platform.map(IOVA, PAGE_A)
    bend(platform)
    assert platform.dma(IOVA + 0x10) is reason
    assert platform.iommu.faults == [FaultRecord(reason, BDF, IOVA, READ)]
    assert platform.iommu.iotlb == {}


@pytest.mark.parametrize(("bend", "reason"), BENT)
def test_fpd_keeps_qualified_faults_from_the_record(
    platform: Platform, bend: Callable[[Platform], None], reason: FaultReason
) -> None:
    platform.map(IOVA, PAGE_A)
    bend(platform)
    address = CONTEXTS + (BDF & 0xFF) * 16
    platform.memory.store64(address, platform.memory.load64(address) | FPD)
    assert platform.dma(IOVA) is reason
    assert [fault.reason for fault in platform.iommu.faults] == ([reason] if reason in UNQUALIFIED else [])


def test_fpd_is_cached_with_the_context_entry(platform: Platform) -> None:
    platform.attach(BDF, DID, TOP, fpd=True)
    platform.dma(IOVA)
    platform.attach(BDF, DID, TOP)
    platform.dma(IOVA)
    assert platform.iommu.faults == []
    platform.iommu.invalidate_context(BDF)
    platform.dma(IOVA)
    assert len(platform.iommu.faults) == 1


def test_missing_right_comes_before_reserved_bits_of_the_same_entry(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A | 1 << 11, READ)
    assert platform.dma(IOVA, WRITE) is FaultReason.WRITE
    assert platform.dma(IOVA, READ) is FaultReason.TABLE_RESERVED


def test_reserved_bits_of_an_absent_entry_do_not_matter(platform: Platform) -> None:
    platform.map(IOVA, 1 << 62, 0)
    assert platform.dma(IOVA, WRITE) is FaultReason.WRITE


def test_level_4_entry_maps_no_page() -> None:
    platform = Platform(levels=4)
    platform.map(IOVA, PAGE_A)
    entry_bits(1 << 7, 4)(platform)
    assert platform.dma(IOVA) is FaultReason.TABLE_RESERVED


@pytest.mark.parametrize(("levels", "bits"), [(3, 39), (4, 48)])
def test_beyond_the_width(levels: int, bits: int) -> None:
    platform = Platform(levels)
    last = (1 << bits) - PAGE_SIZE
    platform.map(last, PAGE_A)
    assert platform.dma(last) == PAGE_A
    assert platform.dma(1 << bits) is FaultReason.BEYOND_WIDTH
    assert platform.dma(1 << bits | last) is FaultReason.BEYOND_WIDTH
    assert platform.dma(2**64 - 1) is FaultReason.BEYOND_WIDTH


def test_a_hot_translation_of_the_domain_does_not_widen_another_devices_context() -> None:
    platform = Platform(levels=4)
    platform.map(1 << 40, PAGE_A)
    assert platform.dma(1 << 40) == PAGE_A
    platform.set_context(OTHER_BDF, TOP | 1, DID << 8 | 1)
    assert platform.dma(1 << 40, bdf=OTHER_BDF) is FaultReason.BEYOND_WIDTH


def test_platform_of_39_bits_refuses_48() -> None:
    assert Platform(levels=4, guest_width=39).dma(IOVA) is FaultReason.CONTEXT_INVALID
    assert Platform(levels=3, guest_width=39).dma(IOVA) is FaultReason.READ


def test_device_of_another_bus_has_its_own_root_entry(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    other_bus = BDF | 0x100
    assert platform.dma(IOVA, bdf=other_bus) is FaultReason.ROOT_NOT_PRESENT
    platform.memory.store64(ROOT + 16, root_entry(CONTEXTS))
    assert platform.dma(IOVA, bdf=other_bus) == PAGE_A


def test_every_function_of_a_bus_has_its_own_context_entry() -> None:
    platform = Platform()
    platform.map(IOVA, PAGE_A)
    last = source_id(0, 31, 7)
    assert platform.dma(IOVA, bdf=last) is FaultReason.CONTEXT_NOT_PRESENT
    platform.attach(last, DID, TOP)
    assert platform.dma(IOVA, bdf=last) == PAGE_A
    assert platform.dma(IOVA, bdf=last & 0x7F) is FaultReason.CONTEXT_NOT_PRESENT


def test_table_just_beyond_memory() -> None:
    platform = Platform()
    end = platform.memory.size
    platform.attach(BDF, DID, end)
    assert platform.dma(0) is FaultReason.CONTEXT_INVALID
    platform.memory.store64(ROOT, root_entry(end))
    assert platform.dma(0, bdf=0) is FaultReason.CONTEXT_TABLE_ACCESS


def test_ignored_bits_of_a_context_entry(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    context_bits(0, 0x78)(platform)
    assert platform.dma(IOVA) == PAGE_A


def test_low_bits_of_the_root_table_address_do_not_count(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    platform.iommu.enable(ROOT | 0x3FF)
    assert platform.dma(IOVA) == PAGE_A


# Requests that are not translated


def test_translation_off_lets_everything_through() -> None:
    platform = Platform()
    platform.iommu.disable()
    assert platform.dma(0x1234_5678) == 0x1234_5678
    assert Iommu(platform.memory, platform.clock).translate(BDF, PAGE_A, WRITE) == PAGE_A


def test_interrupt_range_is_not_translated(platform: Platform) -> None:
    platform.map(0xFEE0_1000, PAGE_A)
    assert platform.dma(0xFEE0_1004, WRITE) == 0xFEE0_1004
    platform.map(0xFEF0_0000, PAGE_B)
    assert platform.dma(0xFEF0_0000) == PAGE_B
    assert (DID, 0xFEE01) not in platform.iommu.iotlb


def test_pass_through(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    assert platform.dma(IOVA) == PAGE_A
    low, high = context_entry(DID, TOP, platform.levels)
    platform.set_context(OTHER_BDF, low | 2 << 2, high)
    assert platform.dma(IOVA + 1, WRITE, OTHER_BDF) == IOVA + 1
    assert platform.dma(1 << 50, WRITE, OTHER_BDF) is FaultReason.BEYOND_WIDTH


# Staleness


def test_stale_translation_is_used_until_invalidated(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    assert platform.dma(IOVA) == PAGE_A
    platform.map(IOVA, PAGE_B)
    assert platform.dma(IOVA) == PAGE_A
    platform.map(IOVA, 0, 0)
    assert platform.dma(IOVA) == PAGE_A
    platform.iommu.invalidate_iotlb(DID + 1, IOVA)
    platform.iommu.invalidate_iotlb(DID, IOVA + PAGE_SIZE)
    platform.iommu.invalidate_iotlb(DID + 1)
    platform.iommu.invalidate_context()
    assert platform.dma(IOVA) == PAGE_A
    platform.iommu.invalidate_iotlb(DID, IOVA + 0x800)
    assert platform.dma(IOVA) is FaultReason.READ


@pytest.mark.parametrize("arguments", [(), (DID,), (DID, IOVA), (DID, IOVA, 9), (DID, IOVA ^ 0x3000, 2)])
def test_each_granularity_of_iotlb_invalidation(platform: Platform, arguments: tuple[int, ...]) -> None:
    platform.map(IOVA, PAGE_A)
    platform.dma(IOVA)
    platform.map(IOVA, PAGE_B)
    platform.iommu.invalidate_iotlb(*arguments)
    assert platform.dma(IOVA) == PAGE_B


def test_page_invalidation_hits_its_aligned_range_and_domain_only() -> None:
    platform = Platform()
    platform.attach(OTHER_BDF, DID + 1, TOP)
    for page in range(8):
        platform.map(IOVA + page * PAGE_SIZE, PAGE_A)
        platform.dma(IOVA + page * PAGE_SIZE)
        platform.dma(IOVA + page * PAGE_SIZE, bdf=OTHER_BDF)
    platform.iommu.invalidate_iotlb(DID, IOVA + 5 * PAGE_SIZE, 1)
    gone = {(DID, (IOVA >> 12) + 4), (DID, (IOVA >> 12) + 5)}
    everything = {(did, (IOVA >> 12) + page) for did in (DID, DID + 1) for page in range(8)}
    assert set(platform.iommu.iotlb) == everything - gone


def test_page_invalidation_needs_a_domain() -> None:
    with pytest.raises(ValueError, match="domain"):
        Platform().iommu.invalidate_iotlb(None, IOVA)


def test_superpage_is_cached_by_4k_and_needs_the_address_mask() -> None:
    platform = Platform()
    platform.map(IOVA & ~0x1FFFFF, PAGE_A, level=2)
    platform.dma(IOVA)
    platform.dma(IOVA + PAGE_SIZE)
    platform.map(IOVA & ~0x1FFFFF, PAGE_B, level=2)
    platform.iommu.invalidate_iotlb(DID, IOVA)
    assert platform.dma(IOVA) == PAGE_B + (IOVA & 0x1FFFFF)
    assert platform.dma(IOVA + PAGE_SIZE) == PAGE_A + (IOVA + PAGE_SIZE & 0x1FFFFF)
    platform.iommu.invalidate_iotlb(DID, IOVA, 9)
    assert platform.dma(IOVA + PAGE_SIZE) == PAGE_B + (IOVA + PAGE_SIZE & 0x1FFFFF)


def test_fewer_rights_need_an_invalidation(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    platform.dma(IOVA)
    platform.map(IOVA, PAGE_A, READ)
    assert platform.dma(IOVA, WRITE) == PAGE_A
    platform.iommu.invalidate_iotlb(DID)
    assert platform.dma(IOVA, WRITE) is FaultReason.WRITE


def test_more_rights_need_none(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A, READ)
    platform.dma(IOVA)
    assert platform.dma(IOVA, WRITE) is FaultReason.WRITE
    assert platform.dma(IOVA) == PAGE_A
    platform.map(IOVA, PAGE_B, RW)
    assert platform.dma(IOVA) == PAGE_A
    assert platform.dma(IOVA, WRITE) == PAGE_B
    assert platform.dma(IOVA) == PAGE_B


def test_blocked_requests_are_not_cached(platform: Platform) -> None:
    assert platform.dma(IOVA) is FaultReason.READ
    platform.map(IOVA, PAGE_A)
    assert platform.dma(IOVA) == PAGE_A
    assert platform.dma(IOVA, bdf=OTHER_BDF) is FaultReason.CONTEXT_NOT_PRESENT
    platform.attach(OTHER_BDF, DID, TOP)
    assert platform.dma(IOVA, bdf=OTHER_BDF) == PAGE_A


def test_stale_context_entry_is_used_until_invalidated(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    platform.map(IOVA + PAGE_SIZE, PAGE_B)
    platform.dma(IOVA)
    no_context(platform)
    assert platform.dma(IOVA + PAGE_SIZE) == PAGE_B
    platform.iommu.invalidate_iotlb()
    assert platform.dma(IOVA) == PAGE_A
    platform.iommu.invalidate_context(OTHER_BDF)
    platform.iommu.invalidate_context(did=DID + 1)
    platform.iommu.invalidate_context(BDF, DID + 1)
    assert platform.dma(IOVA) == PAGE_A
    platform.iommu.invalidate_context(BDF, DID)
    assert platform.dma(IOVA) is FaultReason.CONTEXT_NOT_PRESENT


@pytest.mark.parametrize("arguments", [{}, {"bdf": BDF}, {"did": DID}])
def test_each_granularity_of_context_invalidation(platform: Platform, arguments: dict[str, int]) -> None:
    platform.dma(IOVA)
    no_context(platform)
    platform.iommu.invalidate_context(**arguments)
    assert platform.dma(IOVA) is FaultReason.CONTEXT_NOT_PRESENT


def test_reassigned_device_finds_the_translations_its_new_domain_id_left_behind() -> None:
    platform = Platform()
    platform.map(IOVA, PAGE_A)
    platform.dma(IOVA)
    second_top = 0x80000
    platform.map(IOVA, PAGE_B, top=second_top)
    platform.attach(OTHER_BDF, DID, second_top)
    assert platform.dma(IOVA, bdf=OTHER_BDF) == PAGE_A
    platform.iommu.invalidate_iotlb(DID)
    assert platform.dma(IOVA, bdf=OTHER_BDF) == PAGE_B


def test_new_root_table_does_not_invalidate(platform: Platform) -> None:
    platform.dma(IOVA)
    platform.iommu.enable(0x90000)
    assert platform.dma(IOVA) is FaultReason.READ
    platform.iommu.invalidate_context()
    assert platform.dma(IOVA) is FaultReason.ROOT_NOT_PRESENT


# Capacity


def test_eviction_is_first_in_first_out() -> None:
    platform = Platform()
    platform.iommu.set_capacity(4)
    for page in range(6):
        platform.map(IOVA + page * PAGE_SIZE, PAGE_A + page * PAGE_SIZE)
    for page in (0, 1, 2, 3, 0, 4, 5):
        platform.dma(IOVA + page * PAGE_SIZE)
    assert [tag[1] - (IOVA >> 12) for tag in platform.iommu.iotlb] == [2, 3, 4, 5]
    platform.iommu.set_capacity(1)
    assert [tag[1] - (IOVA >> 12) for tag in platform.iommu.iotlb] == [5]


def test_walking_again_for_a_right_evicts_nothing() -> None:
    platform = Platform()
    platform.iommu.set_capacity(2)
    for page in range(2):
        platform.map(IOVA + page * PAGE_SIZE, PAGE_A, READ)
        platform.dma(IOVA + page * PAGE_SIZE)
    platform.map(IOVA + PAGE_SIZE, PAGE_A, RW)
    assert platform.dma(IOVA + PAGE_SIZE, WRITE) == PAGE_A
    assert list(platform.iommu.iotlb.values()) == [(PAGE_A, READ), (PAGE_A, RW)]


def test_capacity_zero_retains_nothing() -> None:
    platform = Platform()
    platform.map(IOVA, PAGE_A)
    platform.iommu.set_capacity(0)
    assert platform.dma(IOVA) == PAGE_A
    platform.map(IOVA, PAGE_B)
    assert platform.dma(IOVA) == PAGE_B
    assert platform.iommu.iotlb == {}
    with pytest.raises(ValueError, match="negative"):
        platform.iommu.set_capacity(-1)


def test_context_cache_is_bounded() -> None:
    platform = Platform()
    for bdf in range(CONTEXT_CAPACITY + 3):
        platform.attach(bdf, DID, TOP)
        platform.dma(IOVA, bdf=bdf)
    assert list(platform.iommu.context_cache) == list(range(3, CONTEXT_CAPACITY + 3))


# Fault records, cost, explanation


def test_faults_overflow_until_cleared() -> None:
    platform = Platform()
    for page in range(FAULT_RECORDS):
        platform.dma(IOVA + page * PAGE_SIZE, WRITE)
    overflow = [platform.iommu.overflow]
    platform.dma(0)
    overflow.append(platform.iommu.overflow)
    assert overflow == [False, True]
    assert [fault.page for fault in platform.iommu.faults] == [IOVA + page * PAGE_SIZE for page in range(FAULT_RECORDS)]
    for index in range(FAULT_RECORDS):
        platform.iommu.log.clear_record(index)
    platform.dma(0)
    assert platform.iommu.faults == []
    platform.iommu.clear_faults()
    platform.dma(0)
    assert platform.iommu.faults == [FaultRecord(FaultReason.READ, BDF, 0, READ)]


def test_fault_says_what_happened() -> None:
    with pytest.raises(DmaFault, match=r"0x0018 to iova 0x123 blocked: WRITE") as caught:
        Platform().iommu.translate(BDF, 0x123, WRITE)
    assert (caught.value.reason, caught.value.bdf, caught.value.iova) == (FaultReason.WRITE, BDF, 0x123)


def test_a_walk_costs_its_references_and_a_hit_does_not() -> None:
    platform = Platform(levels=4)
    platform.map(IOVA, PAGE_A)
    before = platform.clock.cycles
    platform.dma(IOVA)
    assert platform.clock.cycles - before == 6 * Cost.WALK_REFERENCE
    before = platform.clock.cycles
    platform.dma(IOVA)
    assert platform.clock.cycles - before == Cost.TLB_HIT
    assert (platform.iommu.hits, platform.iommu.misses) == (1, 1)


def test_walk_is_recorded_for_explanation() -> None:
    platform = Platform()
    platform.map(IOVA, PAGE_A)
    steps: list[tuple[int, int, int, int, int]] = []
    platform.iommu.tables.record = steps
    platform.dma(IOVA)
    assert [step[:2] for step in steps] == [
        (STAGE_ROOT, 0),
        (STAGE_CONTEXT, 0),
        *((STAGE_SECOND_LEVEL, level) for level in (3, 2, 1)),
    ]
    assert steps[0] == (STAGE_ROOT, 0, ROOT, 0, CONTEXTS | 1)
    assert steps[1][2:4] == (CONTEXTS, BDF)
    assert steps[2][2:] == (TOP, IOVA >> 30 & 511, platform.memory.load64(TOP + (IOVA >> 30 & 511) * 8))
    assert steps[-1][4] == PAGE_A | RW


def test_translating_writes_nothing_to_memory(platform: Platform) -> None:
    platform.map(IOVA, PAGE_A)
    platform.memory.snapshot()
    platform.dma(IOVA)
    platform.dma(0)
    assert not platform.memory.dirty


def test_source_id_and_context_entry_check_their_arguments() -> None:
    assert source_id(1, 2, 3) == 0x113
    with pytest.raises(ValueError, match="does not exist"):
        source_id(0, 32, 0)
    with pytest.raises(ValueError, match="context entry"):
        context_entry(DID, TOP, 5)
    with pytest.raises(ValueError, match="context entry"):
        context_entry(1 << 16, TOP, 3)
    with pytest.raises(ValueError, match="context entry"):
        context_entry(DID, TOP + 8, 3)


# Laws

PAGES = st.integers(0, 11)
STEP = st.one_of(
    st.tuples(st.just("map"), PAGES, st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("dma"), PAGES, st.integers(1, 3), st.sampled_from([BDF, OTHER_BDF])),
    st.tuples(st.just("page"), PAGES, st.integers(0, 4), st.just(0)),
    st.tuples(st.sampled_from(["domain", "all"]), st.just(0), st.just(0), st.just(0)),
)


@given(st.lists(STEP, max_size=40), st.integers(0, 5), st.sampled_from([3, 4]))
def test_every_outcome_is_that_of_a_table_state_since_the_last_invalidation(
    steps: list[tuple[str, int, int, int]], capacity: int, levels: int
) -> None:
    """A device uses the present mapping, or a past one that was not invalidated; never another one."""
    platform = Platform(levels)
    platform.attach(OTHER_BDF, DID, TOP)
    platform.iommu.set_capacity(capacity)
    allowed: dict[int, list[tuple[int, int]]] = {page: [(0, 0)] for page in range(12)}
    for name, page, a, b in steps:
        iova = IOVA + page * PAGE_SIZE
        if name == "map":
            platform.map(iova, PAGE_A + a * PAGE_SIZE, b)
            allowed[page].append((PAGE_A + a * PAGE_SIZE, b))
        elif name == "dma":
            got = platform.dma(iova, a, b)
            states = allowed[page]
            if isinstance(got, FaultReason):
                assert states[-1][1] & a != a
                assert got is (FaultReason.WRITE if a & ~states[-1][1] & WRITE else FaultReason.READ)
            else:
                assert (got, a) in [(hpa, rights & a) for hpa, rights in states]
            assert len(platform.iommu.iotlb) <= capacity
        elif name == "page":
            platform.iommu.invalidate_iotlb(DID, iova, a)
            for other in range(12):
                if (IOVA >> 12) + other >> a == iova >> 12 + a:
                    del allowed[other][:-1]
        else:
            platform.iommu.invalidate_iotlb(DID if name == "domain" else None)
            for states in allowed.values():
                del states[:-1]


@given(
    words=st.lists(
        st.one_of(
            st.integers(0, (1 << 64) - 1),
            st.builds(
                lambda frame, low: frame << 12 | low, st.integers(0, 0x10), st.sampled_from((0, 1, 2, 3, 0x83, 9))
            ),
        ),
        min_size=1,
        max_size=40,
    ),
    root=st.integers(0, 0xF),
    bdf=st.integers(0, 0xFFFF),
    iova=st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 0xFFFF)),
    access=st.sampled_from((READ, WRITE)),
)
def test_arbitrary_tables_translate_or_are_a_fault(
    words: list[int], root: int, bdf: int, iova: int, access: int
) -> None:
    """Root, context and second-level entries of any bytes, in memory or beyond: an address, or a DmaFault."""
    memory = PhysicalMemory(1 << 16)
    for at in range((1 << 16) // 8):
        memory.store64(8 * at, words[at * 7 % len(words)])
    iommu = Iommu(memory, Clock())
    iommu.enable(root << 12)
    try:
        hpa = iommu.translate(bdf, iova, access)
    except DmaFault as fault:
        blocked = fault.iova
    else:
        blocked = iova
        assert hpa >= 0
    assert blocked == iova
