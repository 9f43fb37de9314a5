"""Definitions of VT-d in legacy mode: table entries, and fault reasons ("VT-d spec": Intel D51397, chapter 9)."""

from enum import IntEnum
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, U64

ENTRY_SIZE: Final = 16
"""Bytes of a root entry and of a context entry."""

PRESENT: Final = 1 << 0
"""P of a root entry and of a context entry (9.1, 9.3)."""
FPD: Final = 1 << 1
"""Context entry: do not record faults of this device; it counts even if P is clear (9.3)."""
TT_SHIFT: Final = 2
TT_MASK: Final = 3


class TranslationType(IntEnum):
    """TT of a context entry (9.3). Other values require a device TLB, which is unsupported, or are reserved."""

    TRANSLATE = 0
    """Requests go through the second-level tables."""
    PASS_THROUGH = 2
    """Requests are not translated."""


AW_MASK: Final = 7
"""Context entry, high word: the code of the address width (9.3)."""
DID_SHIFT: Final = 8
"""Context entry, high word: lowest bit of the domain id (bits 87..72 of the entry)."""
DID_MASK: Final = 0xFFFF
CONTEXT_HIGH_RESERVED: Final = U64 & ~(AW_MASK | 0x78 | DID_MASK << DID_SHIFT)
"""Bit 71 and bits 127..88 of the entry; bits 70..67 are ignored, and free for software."""
CONTEXT_LOW_RESERVED: Final = 0xFF0
ROOT_LOW_RESERVED: Final = 0xFFE

LEVELS_OF_WIDTH: Final = {1: 3, 2: 4}
"""AW code -> table levels, for 39 and 48 bits; other widths are unsupported (CAP_REG.SAGAW)."""
WIDTH_OF_LEVELS: Final = (12, 21, 30, 39, 48)
"""Number of levels -> bits of an IOVA that they translate."""

SL_READ: Final = 1 << 0
SL_WRITE: Final = 1 << 1
SL_PAGE_SIZE: Final = 1 << 7
"""Second-level entry: maps a 2 MiB or a 1 GiB page (CAP_REG.SLLPS)."""
SL_SNOOP: Final = 1 << 11
"""SNP: reserved, since snoop control is unsupported (ECAP_REG.SC)."""
SL_TRANSIENT: Final = 1 << 62
"""TM: reserved, since device TLBs are unsupported (ECAP_REG.DT)."""
SL_IGNORED: Final = 0xBFF << 52
"""Bits 61..52 and 63 are free for software (9.8)."""

INTERRUPT_RANGE: Final = 0xFEE
"""Addresses whose bits from 20 on are this, 0xFEE0_0000 to 0xFEEF_FFFF, are interrupts and not memory (3.14)."""


class FaultReason(IntEnum):
    """Why a DMA request was blocked (7.1.3, "Fault Reason Encodings")."""

    ROOT_NOT_PRESENT = 1
    CONTEXT_NOT_PRESENT = 2
    CONTEXT_INVALID = 3
    """Width or translation type is unsupported, or no memory answers at the table that the context entry names."""
    BEYOND_WIDTH = 4
    """The IOVA exceeds the width of the context entry or of the platform."""
    WRITE = 5
    """A second-level entry for a write has W clear, or is not present."""
    READ = 6
    """A second-level entry for a read has R clear, or is not present."""
    TABLE_ACCESS = 7
    """No memory answers at the table that a second-level entry names."""
    ROOT_TABLE_ACCESS = 8
    CONTEXT_TABLE_ACCESS = 9
    ROOT_RESERVED = 10
    CONTEXT_RESERVED = 11
    TABLE_RESERVED = 12
    INTERRUPT_RANGE = 14
    """The translation leads to the interrupt range (3.14)."""


def source_id(bus: int, device: int, function: int) -> int:
    """The 16-bit requester id of a PCI function, called `bdf` throughout. Raises ValueError."""
    if not (0 <= bus < 256 and 0 <= device < 32 and 0 <= function < 8):
        raise ValueError(f"PCI function {bus}:{device}.{function} does not exist")
    return bus << 8 | device << 3 | function


def root_entry(context_table: int) -> int:
    """The low word of a present root entry; the high word is zero."""
    return context_table | PRESENT


def context_entry(did: int, table: int, levels: int, *, fpd: bool = False) -> tuple[int, int]:
    """(Low word, high word) of a present context entry for second-level tables of 3 or 4 levels. Raises ValueError."""
    width = levels - 2
    if LEVELS_OF_WIDTH.get(width) != levels or table & PAGE_MASK or not 0 <= did <= DID_MASK:
        raise ValueError(f"invalid context entry: did {did}, table {table:#x}, {levels} levels")
    return table | (FPD if fpd else 0) | PRESENT, did << DID_SHIFT | width


def beyond_host(width: int) -> int:
    """Mask of the bits from `width` to 63."""
    return U64 & ~((1 << width) - 1)


def table_reserved(host_width: int) -> tuple[int, ...]:
    """Reserved bits of second-level entries (9.8), indexed by 2 * level + (1 if the entry maps a page)."""
    common = SL_SNOOP | SL_TRANSIENT | beyond_host(host_width) & ~SL_IGNORED
    top = common | SL_PAGE_SIZE  # A level-4 entry cannot map a page.
    return (
        *(0, 0),
        *(common, common),
        *(common, common | (1 << 21) - PAGE_SIZE),
        *(common, common | (1 << 30) - PAGE_SIZE),
        *(top, top),
    )
