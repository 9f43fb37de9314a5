"""Bits of VT-d's legacy-mode tables, and its fault reasons ("VT-d spec": Intel D51397, chapter 9)."""

from enum import IntEnum
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, U64

ENTRY_SIZE: Final = 16
"""Bytes of a root entry and of a context entry."""

PRESENT: Final = 1 << 0
"""P of a root entry and of a context entry (9.1, 9.3)."""
FPD: Final = 1 << 1
"""Context entry: do not record faults of this device; evaluated even if P is clear (9.3)."""
TT_SHIFT: Final = 2
TT_MASK: Final = 3


class TranslationType(IntEnum):
    """TT of a context entry (9.3); the others need a device TLB, which is not here, or are reserved."""

    TRANSLATE = 0
    """Requests go through the second-level tables."""
    PASS_THROUGH = 2
    """Requests are not translated."""


AW_MASK: Final = 7
"""Context entry, high word: the code of the address width (9.3)."""
DID_SHIFT: Final = 8
"""Context entry, high word: where the domain id (bits 72 to 87 of the entry) starts."""
DID_MASK: Final = 0xFFFF
CONTEXT_HIGH_RESERVED: Final = U64 & ~(AW_MASK | 0x78 | DID_MASK << DID_SHIFT)
"""Bit 71 and bits 88 to 127 of the entry; bits 67 to 70 are ignored, free for software."""
CONTEXT_LOW_RESERVED: Final = 0xFF0
ROOT_LOW_RESERVED: Final = 0xFFE

LEVELS_OF_WIDTH: Final = {1: 3, 2: 4}
"""AW code -> table levels: 39 and 48 bits; other widths this platform does not have (CAP_REG.SAGAW)."""
WIDTH_OF_LEVELS: Final = (12, 21, 30, 39, 48)
"""Levels -> bits of an IOVA that they translate."""

SL_READ: Final = 1 << 0
SL_WRITE: Final = 1 << 1
SL_PAGE_SIZE: Final = 1 << 7
"""Second-level entry: maps a 2 MiB or a 1 GiB page (CAP_REG.SLLPS has both)."""
SL_SNOOP: Final = 1 << 11
"""SNP: reserved, as snoop control is not supported (ECAP_REG.SC)."""
SL_TRANSIENT: Final = 1 << 62
"""TM: reserved, as device TLBs are not supported (ECAP_REG.DT)."""
SL_IGNORED: Final = 0xBFF << 52
"""Bits 52 to 61 and 63 are free for software (9.8)."""

INTERRUPT_RANGE: Final = 0xFEE
"""Addresses 0xFEE0_0000 to 0xFEEF_FFFF, shifted right by 20, are interrupts and not memory (3.14)."""


class FaultReason(IntEnum):
    """Why a DMA request was blocked (7.1.3, "Fault Reason Encodings")."""

    ROOT_NOT_PRESENT = 1
    CONTEXT_NOT_PRESENT = 2
    CONTEXT_INVALID = 3
    """Width or translation type not supported, or no memory where the context entry says the table is."""
    BEYOND_WIDTH = 4
    """The IOVA does not fit the context entry's width, or the platform's."""
    WRITE = 5
    """No second-level entry, or one without W, on the way of a write."""
    READ = 6
    """No second-level entry, or one without R, on the way of a read."""
    TABLE_ACCESS = 7
    """No memory where a second-level entry says the next table is."""
    ROOT_TABLE_ACCESS = 8
    CONTEXT_TABLE_ACCESS = 9
    ROOT_RESERVED = 10
    CONTEXT_RESERVED = 11
    TABLE_RESERVED = 12
    INTERRUPT_RANGE = 14
    """The translation leads to the interrupt range (3.14)."""


def source_id(bus: int, device: int, function: int) -> int:
    """The 16-bit requester id of a PCI function: what a `bdf` is everywhere."""
    if not (0 <= bus < 256 and 0 <= device < 32 and 0 <= function < 8):
        raise ValueError(f"no such PCI function: {bus}:{device}.{function}")
    return bus << 8 | device << 3 | function


def root_entry(context_table: int) -> int:
    """The low word of a present root entry; the high word is zero."""
    return context_table | PRESENT


def context_entry(did: int, table: int, levels: int, *, fpd: bool = False) -> tuple[int, int]:
    """The low and high words of a present context entry for second-level tables of 3 or 4 levels."""
    width = levels - 2
    if LEVELS_OF_WIDTH.get(width) != levels or table & PAGE_MASK or not 0 <= did <= DID_MASK:
        raise ValueError(f"context entry: did {did}, table {table:#x}, {levels} levels")
    return table | (FPD if fpd else 0) | PRESENT, did << DID_SHIFT | width


def beyond_host(width: int) -> int:
    """The bits of a 64-bit word from host address bit `width` on."""
    return U64 & ~((1 << width) - 1)


def table_reserved(host_width: int) -> tuple[int, ...]:
    """Reserved bits of second-level entries (9.8), indexed by 2 * level + (1 if the entry maps a page)."""
    common = SL_SNOOP | SL_TRANSIENT | beyond_host(host_width) & ~SL_IGNORED
    top = common | SL_PAGE_SIZE  # a level-4 entry cannot map a page
    return (
        *(0, 0),
        *(common, common),
        *(common, common | (1 << 21) - PAGE_SIZE),
        *(common, common | (1 << 30) - PAGE_SIZE),
        *(top, top),
    )
