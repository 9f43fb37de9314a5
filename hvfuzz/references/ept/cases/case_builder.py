"""Builds a case: entries are addressed by their role, for all page sizes and slots that the case uses."""

from typing import Final

from hvfuzz.machine.cpu.processor_state import CR0_AT_START, EFER_AT_START, RFLAGS_FIXED
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.references.bochs.disk import REGION
from hvfuzz.references.ept.case import Case, Kind
from hvfuzz.references.ept.memory_map import (
    EPT_ROOT,
    GUEST_TABLES,
    GVA_HIGH,
    GVA_LOW,
    LEAF,
    LEVELS,
    NAMES,
    TABLE,
    TEMPLATE,
    Part,
    ept_entry,
    gpa_of,
    guest_entry,
)

GIB: Final = 1 << 30
_ORDER_MASK: Final = {1: 0xFFF, 2: (1 << 21) - 1, 3: GIB - 1}
"""By level of a leaf: the address bits that are the offset in its page."""
_SLOT: Final = 1 << 39
STUB_BITS: Final = frozenset(range(22, 28))
"""Bits of an hpa that must not change, since it could then be an address of the stub."""
EPT_TABLES_BIT: Final = 16
"""The bit of an hpa that distinguishes guest tables and code from EPT tables."""


class CaseBuilder:
    """A mutable case; `finish` returns the finished one."""

    def __init__(self, kind: Kind, user: bool = False) -> None:
        self.kind = kind
        self.user = user
        self.high = False
        """Whether the access is in the upper half of the linear addresses."""
        self.offset = 0
        """Offset of the access in its page."""
        self.gva: int | None = None
        """Linear address of the access; None: that of `high` and `offset`."""
        self.eptp = ept.eptp_of(EPT_ROOT)
        self.cr0 = CR0_AT_START
        self.cr3 = gpa_of(Part.PML4)
        self.cr4 = paging.CR4_PAE
        self.efer = EFER_AT_START
        self.rflags = RFLAGS_FIXED
        self.entries: dict[int, int] = {}
        self.ept_leaf: dict[Part, int] = dict.fromkeys(Part, 1)
        """Level of the EPT leaf of each part."""
        self.guest_leaf = 1
        """Level of the guest leaf that maps the data."""
        self.slots: dict[Part, int] = {part: gpa_of(part) >> 39 for part in Part}
        if not user:
            self.flip(self.guest(1), paging.US)

    # Entries, by hpa.

    def __getitem__(self, hpa: int) -> int:
        return self.entries.get(hpa, TEMPLATE[hpa])

    def __setitem__(self, hpa: int, value: int) -> None:
        self.entries[hpa] = value

    def flip(self, hpa: int, bits: int) -> None:
        """Invert bits of an entry."""
        self[hpa] ^= bits

    def ept(self, part: Part, level: int) -> int:
        """Hpa of the level-`level` EPT entry for a part, in its current slot."""
        return ept_entry(part, level, self.slots[part])

    def guest(self, level: int) -> int:
        """Hpa of the level-`level` guest entry for the data."""
        return guest_entry(level, GVA_HIGH if self.high else GVA_LOW)

    def ept_path(self, part: Part) -> list[int]:
        """Hpas of the EPT entries that translate a part, from level 4 to its leaf."""
        return [self.ept(part, level) for level in LEVELS if level >= self.ept_leaf[part]]

    def guest_path(self) -> list[int]:
        """Hpas of the guest entries that translate the data, from level 4 to the leaf."""
        return [self.guest(level) for level in LEVELS if level >= self.guest_leaf]

    # Slots, page sizes and the EPTP.

    def accessed_dirty(self, enabled: bool) -> None:
        """Enable or disable EPT accessed and dirty flags."""
        self.eptp = self.eptp & ~ept.EPTP_ACCESSED_DIRTY | (ept.EPTP_ACCESSED_DIRTY if enabled else 0)

    def move(self, part: Part, slot: int) -> None:
        """Move a guest table or the data to the EPT PML4 entry `slot`. Call it before `map_guest`."""
        if self.slots[part] == slot:
            return
        self.slots[part] = slot
        if part is Part.PML4:
            self.cr3 ^= _SLOT
            return
        level = 5 - (GUEST_TABLES.index(part) if part in GUEST_TABLES else 4)
        for gva in (GVA_LOW, GVA_HIGH) if level == 4 else (GVA_LOW,):
            self.flip(guest_entry(level, gva), _SLOT)
        if part is Part.DATA:
            self.flip(guest_entry(1) + 8, _SLOT)

    def map_ept(self, part: Part, level: int) -> None:
        """Map a part by an EPT leaf of `level`."""
        self.ept_leaf[part] = level
        if level > 1:
            base = REGION if level == 2 else 0
            self[self.ept(part, level)] = base | LEAF | ept.LARGE

    def map_guest(self, level: int) -> None:
        """Map the data by a guest leaf of `level`."""
        self.guest_leaf = level
        if level > 1:
            base = self.slots[Part.DATA] * _SLOT | gpa_of(Part.DATA, 0) & ~_ORDER_MASK[level]
            flags = TABLE & (self[guest_entry(1)] | ~paging.US) | paging.D | paging.PS
            self[self.guest(level)] = base | flags

    def has_small_tables(self) -> bool:
        """Whether all guest tables have 4 KiB EPT leaves; a large leaf would also map EPT tables."""
        return all(self.ept_leaf[part] == 1 for part in GUEST_TABLES)

    def may_flip(self, hpa: int, bit: int) -> bool:
        """Whether bit number `bit` of the entry at `hpa` may be flipped.

        An address bit may be flipped if the access then stays within REGION or outside memory, no guest table overlaps
        EPT tables (which the guest would then change), and the guest runs only code that `GuestCode` knows.
        """
        name = NAMES[hpa]
        if bit in STUB_BITS:
            return not name.startswith("ept") and 3 not in self.ept_leaf.values()
        if bit == EPT_TABLES_BIT and not name.startswith("ept"):
            return self.has_small_tables()
        if name.startswith("ept1.") and not name.startswith(("ept1.data", "ept1.large")):
            return bit != EPT_TABLES_BIT and (bit not in range(12, EPT_TABLES_BIT) or "code" not in name)
        # With PS clear, a 1 GiB guest leaf points to a table, which a 1 GiB EPT leaf maps to the stub.
        return bit != 7 or hpa != guest_entry(3) or self.ept_leaf[Part.DATA] != 3

    def finish(self, what: str) -> Case:
        """The case, which varies `what`."""
        gva = (GVA_HIGH if self.high else GVA_LOW) + self.offset if self.gva is None else self.gva
        if self.kind is Kind.PDPTES and self.gva is None:
            gva = gpa_of(Part.DATA, 0) + self.offset
        entries = tuple(sorted((hpa, value) for hpa, value in self.entries.items() if value != TEMPLATE[hpa]))
        return Case(
            what,
            self.kind,
            self.user,
            gva,
            self.eptp,
            self.cr0,
            self.cr3,
            self.cr4,
            self.efer,
            self.rflags,
            entries,
        )
