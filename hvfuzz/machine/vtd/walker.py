"""Table walks of VT-d, without caches: from a requester id and an IOVA to a page."""

from typing import Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_MASK, READ, WRITE
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.legacy_mode import (
    AW_MASK,
    CONTEXT_HIGH_RESERVED,
    CONTEXT_LOW_RESERVED,
    DID_MASK,
    DID_SHIFT,
    ENTRY_SIZE,
    FPD,
    INTERRUPT_RANGE,
    LEVELS_OF_WIDTH,
    PRESENT,
    ROOT_LOW_RESERVED,
    SL_PAGE_SIZE,
    TT_MASK,
    TT_SHIFT,
    WIDTH_OF_LEVELS,
    FaultReason,
    TranslationType,
    beyond_host,
    table_reserved,
)

STAGE_ROOT: Final = 3
STAGE_CONTEXT: Final = 4
STAGE_SECOND_LEVEL: Final = 5

WalkStep = tuple[int, int, int, int, int]
"""(stage, level 4..1 or 0, Hpa of the table, index of the entry, the entry as it was read or its low word)"""


class Context(NamedTuple):
    """The fields of a context entry."""

    did: int
    slptptr: int
    """Hpa of the top second-level table."""
    levels: int
    tt: TranslationType
    fpd: bool


class Blocked(NamedTuple):
    """There is no usable context entry: the reason, and whether FPD suppresses its record."""

    reason: FaultReason
    fpd: bool


class VtdTables:
    """Reads root, context and second-level entries from memory, and charges `clock`.

    If `record` is a list, each reference to a table is appended to it as a WalkStep.
    """

    __slots__ = ("_address", "_host_reserved", "_reserved", "clock", "guest_width", "memory", "record")

    def __init__(self, memory: PhysicalMemory, clock: Clock, host_width: int, guest_width: int) -> None:
        self.memory = memory
        self.clock = clock
        self.guest_width: int = guest_width
        self.record: list[WalkStep] | None = None
        self._host_reserved: int = beyond_host(host_width)
        self._address: int = (1 << host_width) - 1 & ~PAGE_MASK
        self._reserved: tuple[int, ...] = table_reserved(host_width)

    def context(self, root_table: int, bdf: int) -> Context | Blocked:
        """The context entry of `bdf`, or why it cannot be used (3.4.2, 3.4.3)."""
        low, high = self._read_entry(STAGE_ROOT, root_table, bdf >> 8)
        if low < 0:
            return Blocked(FaultReason.ROOT_TABLE_ACCESS, False)
        if not low & PRESENT:
            return Blocked(FaultReason.ROOT_NOT_PRESENT, False)
        if high or low & (ROOT_LOW_RESERVED | self._host_reserved):
            return Blocked(FaultReason.ROOT_RESERVED, False)
        low, high = self._read_entry(STAGE_CONTEXT, low & self._address, bdf & 0xFF)
        if low < 0:
            return Blocked(FaultReason.CONTEXT_TABLE_ACCESS, False)
        fpd = low & FPD != 0
        if not low & PRESENT:
            return Blocked(FaultReason.CONTEXT_NOT_PRESENT, fpd)
        if low & (CONTEXT_LOW_RESERVED | self._host_reserved) or high & CONTEXT_HIGH_RESERVED:
            return Blocked(FaultReason.CONTEXT_RESERVED, fpd)
        levels = LEVELS_OF_WIDTH.get(high & AW_MASK, 0)
        tt = low >> TT_SHIFT & TT_MASK
        if (
            not levels
            or WIDTH_OF_LEVELS[levels] > self.guest_width
            or tt not in (TranslationType.TRANSLATE, TranslationType.PASS_THROUGH)
        ):
            return Blocked(FaultReason.CONTEXT_INVALID, fpd)
        did = high >> DID_SHIFT & DID_MASK
        return Context(did, low & self._address, levels, TranslationType(tt), fpd)

    def page(self, slptptr: int, levels: int, iova: int, access: int) -> tuple[int, int] | FaultReason:
        """(Hpa, rights) of the 4 KiB page of `iova` by second-level tables, or why there is none.

        At each level the right is checked before reserved bits (7.1.3, SSL.2 and SSL.3). The rights returned are those
        that all levels grant. `iova` must not exceed the width of the levels.
        """
        memory = self.memory
        level = levels
        table = slptptr
        rights = READ | WRITE
        while True:
            self.clock.cycles += Cost.WALK_REFERENCE
            shift = 3 + 9 * level
            index = iova >> shift & 511
            hpa = table + index * 8
            if hpa >= memory.size:
                return FaultReason.CONTEXT_INVALID if level == levels else FaultReason.TABLE_ACCESS
            entry: int = memory.words[hpa >> 3]
            if self.record is not None:
                self.record.append((STAGE_SECOND_LEVEL, level, table, index, entry))
            if entry & access != access:
                return FaultReason.WRITE if access & ~entry & WRITE else FaultReason.READ
            is_page = level == 1 or entry & SL_PAGE_SIZE != 0
            if entry & self._reserved[2 * level + is_page]:
                return FaultReason.TABLE_RESERVED
            rights &= entry
            table = entry & self._address
            if is_page:
                page = table | iova & (1 << shift) - 1 & ~PAGE_MASK
                return FaultReason.INTERRUPT_RANGE if page >> 20 == INTERRUPT_RANGE else (page, rights)
            level -= 1

    def _read_entry(self, stage: int, table: int, index: int) -> tuple[int, int]:
        """The two words of a root or context entry; (-1, -1) if no memory answers."""
        self.clock.cycles += Cost.WALK_REFERENCE
        hpa = table + index * ENTRY_SIZE
        if hpa + ENTRY_SIZE > self.memory.size:
            return -1, -1
        words = self.memory.words
        low: int = words[hpa >> 3]
        high: int = words[(hpa >> 3) + 1]
        if self.record is not None:
            self.record.append((stage, 0, table, index, low))
        return low, high
