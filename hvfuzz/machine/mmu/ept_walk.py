"""The second stage of translation: the walk of the EPT for a guest-physical address (SDM Vol. 3C, 29.3)."""

from typing import Final

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, PAGE_SHIFT, READ, U64, WRITE
from hvfuzz.machine.clock import Clock, Cost
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation
from hvfuzz.machine.mmu import ept
from hvfuzz.machine.mmu.paging_cache import GuestPhysicalTable
from hvfuzz.machine.mmu.tlb import GuestPhysicalEntry, Tlb
from hvfuzz.machine.physical_memory import PhysicalMemory

CACHED: Final = 0
STAGE_1: Final = 1
STAGE_2: Final = 2
STRUCTURE_1: Final = 3
STRUCTURE_2: Final = 4

WalkStep = tuple[int, int, int, int, int]
"""(stage, level 4..1, Hpa of the table, index of the entry, the entry as it was read); or, for a use of a cache:

- (CACHED, 0, Hpa of the page, gpa >> 12, rights): a guest-physical mapping in the TLB replaced the EPT walk;
- (STRUCTURE_1, level of the entry, Hpa of the guest's next table, its Gpa, RW, US and NX so far): stage 1 begins there;
- (STRUCTURE_2, level of the entry, Hpa of the next EPT table, gpa >> 12, rights so far): stage 2 begins there.
"""

# Plain ints, since combining members of an IntFlag creates a new member each time.
_LINEAR_VALID: Final = int(ept.Qualification.LINEAR_VALID)
_FINAL: Final = int(ept.Qualification.FINAL)
_PLAIN_TABLE: Final = ept.RESERVED_TABLE | ept.LARGE | ept.RIGHTS
_GPA_LIMIT: Final = 1 << 48
"""A 4-level EPT translates 48 bits (SDM Vol. 3C, 29.3.2)."""
# For each level: (level, shift of the index, reserved bits of a table entry, reserved bits of a leaf or -1 if the
# level has no leaves, address bits of a leaf, mask under which an ordinary table entry has just the three rights).
_LEVELS: Final[tuple[tuple[int, int, int, int, int, int], ...]] = (
    (4, 39, ept.RESERVED_PML4E, -1, 0, ept.RESERVED_PML4E | ept.RIGHTS),
    (3, 30, ept.RESERVED_TABLE, ept.RESERVED_1G, ept.ADDRESS & ~((1 << 30) - 1), _PLAIN_TABLE),
    (2, 21, ept.RESERVED_TABLE, ept.RESERVED_2M, ept.ADDRESS & ~((1 << 21) - 1), _PLAIN_TABLE),
    (1, 12, -1, ept.RESERVED_4K, ept.ADDRESS, 0),
)
_BELOW: Final = ((), (), _LEVELS[3:], _LEVELS[2:], _LEVELS[1:])
"""Level of a cached entry -> the levels that remain to be read."""


class SecondStage:
    """Translates Gpas by any EPT of the machine, through the guest-physical mappings of the TLB.

    If `record` is a list, each reference to a table and each use of a cache is appended to it as a WalkStep.
    """

    __slots__ = ("clock", "memory", "record", "tlb")

    def __init__(self, memory: PhysicalMemory, tlb: Tlb, clock: Clock) -> None:
        self.memory: PhysicalMemory = memory
        self.tlb: Tlb = tlb
        self.clock: Clock = clock
        self.record: list[WalkStep] | None = None

    def translate_gpa(self, eptp: int, gpa: int, access: int, gva: int | None = None, walking: bool = False) -> int:
        """The Hpa that `gpa` maps to under `eptp`, for `access` (READ | WRITE | EXEC).

        `gva` is the linear address being translated, if any; `walking` means that the access is to one of the guest's
        paging structures. Raises EptViolation, EptMisconfiguration.
        """
        return self.resolve_gpa(eptp, gpa, access, gva, walking)[0] | gpa & PAGE_MASK

    def resolve_gpa(
        self, eptp: int, gpa: int, access: int, gva: int | None = None, walking: bool = False
    ) -> GuestPhysicalEntry:
        """As `translate_gpa`, but returns the whole mapping: (Hpa of the page, rights, order)."""
        if walking and eptp & ept.EPTP_ACCESSED_DIRTY:
            access |= WRITE  # SDM Vol. 3C, 29.3.3.2: they count as writes, and set the dirty flag.
        tlb = self.tlb
        ep4ta = eptp & ept.EP4TA
        key = (ep4ta, gpa >> PAGE_SHIFT)
        entry = tlb.guest_physical.get(key)
        if entry is not None:
            if entry[1] & access == access:
                self.clock.cycles += Cost.TLB_HIT
                if self.record is not None:
                    self.record.append((CACHED, 0, entry[0], key[1], entry[1]))
                return entry
            # An EPT violation invalidates the mapping (SDM Vol. 3C, 29.4.3.1); a successful walk replaces it.
            del tlb.guest_physical[key]
        structures = tlb.structures
        cached = structures.guest_physical
        start = cached.get((ep4ta, 2, gpa >> 21))
        if start is None and cached:
            start = cached.get((ep4ta, 3, gpa >> 30)) or cached.get((ep4ta, 4, gpa >> 39))
        try:
            entry = self._walk_ept(eptp, gpa, access, gva, walking, start)
        except EptViolation:
            if start is not None:
                structures.forget_ept(ep4ta, gpa)  # An EPT violation invalidates them, too (SDM Vol. 3C, 29.4.3.1).
            raise
        tlb.insert_guest_physical(key, entry)
        return entry

    def _walk_ept(
        self,
        eptp: int,
        gpa: int,
        access: int,
        gva: int | None,
        walking: bool,
        start: GuestPhysicalTable | None,
    ) -> GuestPhysicalEntry:
        """Walk the tables in memory, from the root or the cached table `start`, and cache the tables on the way."""
        if gpa >= _GPA_LIMIT:
            raise EptViolation(gpa, gva, _qualify(access, 0, gva, walking))
        memory = self.memory
        words = memory.words
        size = memory.size
        clock = self.clock
        record = self.record
        accessed_dirty = eptp & ept.EPTP_ACCESSED_DIRTY
        if start is None:
            rights = ept.RIGHTS
            table = eptp & ept.ADDRESS
            levels = _LEVELS
        else:
            table, rights, level = start
            levels = _BELOW[level]
            clock.cycles += Cost.TLB_HIT
            if record is not None:
                record.append((STRUCTURE_2, level, table, gpa >> PAGE_SHIFT, rights))
        used: list[int] = []
        tables: list[GuestPhysicalTable] = []
        entry = address = order = page = 0
        for level, shift, reserved_table, reserved_leaf, leaf_address, plain in levels:
            address = table | (gpa >> shift & 511) << 3
            clock.cycles += Cost.WALK_REFERENCE
            # Where no memory answers, reads give ones.
            entry = words[address >> 3] if address < size else U64
            if record is not None:
                record.append((STAGE_2, level, table, gpa >> shift & 511, entry))
            if entry & plain == ept.RIGHTS and not accessed_dirty:
                table = entry & ept.ADDRESS  # An ordinary table entry passes all the checks below.
                tables.append((table, rights, level))
                continue
            # SDM Vol. 3C, 29.3.2: not present.
            if not entry & ept.RIGHTS:
                raise EptViolation(gpa, gva, _qualify(access, 0, gva, walking))
            leaf = level == 1 or (reserved_leaf != -1 and entry & ept.LARGE)
            # SDM Vol. 3C, 29.3.3.1: writable but not readable, or a reserved bit is set.
            if entry & 3 == WRITE or entry & (reserved_leaf if leaf else reserved_table):
                raise EptMisconfiguration(gpa)
            rights &= entry
            if leaf:
                # SDM Vol. 3C, 29.3.3.1: reserved memory type.
                if not ept.VALID_MEMORY_TYPES >> (entry >> ept.MEMORY_TYPE_SHIFT & 7) & 1:
                    raise EptMisconfiguration(gpa)
                order = shift - PAGE_SHIFT
                page = (entry & leaf_address) | (gpa & ((1 << shift) - 1) & ~PAGE_MASK)
                break
            if accessed_dirty and not entry & ept.ACCESSED:
                used.append(address)
            table = entry & ept.ADDRESS
            tables.append((table, rights, level))
        # SDM Vol. 3C, 29.3.3.2: a right is missing in one of the entries.
        if rights & access != access:
            raise EptViolation(gpa, gva, _qualify(access, rights, gva, walking))
        if accessed_dirty:
            for table_entry in used:
                memory.store64(table_entry, words[table_entry >> 3] | ept.ACCESSED)
            wanted = entry | ept.ACCESSED | (ept.DIRTY if access & WRITE else 0)
            if wanted != entry and address < size:
                memory.store64(address, wanted)
            if not wanted & ept.DIRTY:
                rights &= ~WRITE  # The first write must walk, to set the dirty flag.
        if tables:
            self.tlb.structures.keep_ept(eptp & ept.EP4TA, gpa, tables)
        return page, rights, order


def _qualify(access: int, rights: int, gva: int | None, walking: bool) -> int:
    """The exit qualification of an EPT violation (SDM Vol. 3C, table 28-7)."""
    qualification = access & (READ | WRITE | EXEC) | rights << 3
    if gva is not None:
        qualification |= _LINEAR_VALID
        if not walking:
            qualification |= _FINAL
    return qualification
