"""Definitions of Intel EPT, the second stage: entries, EPTP, reserved bits, exit qualification (SDM Vol. 3C, 29.3)."""

from enum import IntEnum, IntFlag
from typing import Final

from hvfuzz.machine.addresses import FRAME_ADDRESS, PHYSICAL_RESERVED

# Bits of an EPT entry (SDM Vol. 3C, tables 29-1 to 29-7). Bits 0 to 2 are addresses.READ, WRITE, EXEC.
RIGHTS: Final = 7
MEMORY_TYPE_SHIFT: Final = 3
MEMORY_TYPE: Final = 7 << MEMORY_TYPE_SHIFT
"""Bits 5..3 of a leaf; reserved in other entries."""
IGNORE_PAT: Final = 1 << 6
LARGE: Final = 1 << 7
"""This EPT PDPTE maps 1 GiB, this EPT PDE maps 2 MiB."""
ACCESSED: Final = 1 << 8
DIRTY: Final = 1 << 9
SUPPRESS_VE: Final = 1 << 63
ADDRESS: Final = FRAME_ADDRESS
"""Bits 39..12: the Hpa of the next table or of a 4 KiB page."""

# EPT pointer (SDM Vol. 3C, table 25-9).
EPTP_WALK_LENGTH_4: Final = 3 << 3
EPTP_ACCESSED_DIRTY: Final = 1 << 6
"""Enables accessed and dirty flags. Accesses to the guest's paging structures then count as writes."""
EP4TA: Final = ((1 << 52) - 1) & ~0xFFF
"""The bits of an EPTP that tag TLB entries: the address of the EPT PML4 table."""


class MemoryType(IntEnum):
    """Memory types of a leaf; 2, 3 and 7 are misconfigurations (SDM Vol. 3C, 29.3.3.1)."""

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6


VALID_MEMORY_TYPES: Final = sum(1 << kind for kind in MemoryType)

_VALID_EPTPS: Final = (MemoryType.WB | EPTP_WALK_LENGTH_4, MemoryType.UC | EPTP_WALK_LENGTH_4)

# Bits that must be zero, or the entry is misconfigured (SDM Vol. 3C, 29.3.3.1). Level 4 is the PML4E.
RESERVED_PML4E: Final = PHYSICAL_RESERVED | 0xF8
RESERVED_TABLE: Final = PHYSICAL_RESERVED | 0x78
"""For a PDPTE or PDE that references a table."""
RESERVED_1G: Final = PHYSICAL_RESERVED | ((1 << 30) - (1 << 12))
RESERVED_2M: Final = PHYSICAL_RESERVED | ((1 << 21) - (1 << 12))
RESERVED_4K: Final = PHYSICAL_RESERVED


class Qualification(IntFlag):
    """Exit qualification of an EPT violation (SDM Vol. 3C, table 28-7); bits 5..3 are rights shifted by 3."""

    READ = 1 << 0
    """The access was a data read."""
    WRITE = 1 << 1
    """The access was a data write."""
    FETCH = 1 << 2
    """The access was an instruction fetch."""
    READABLE = 1 << 3
    """All the entries used allow reads."""
    WRITABLE = 1 << 4
    """All the entries used allow writes."""
    EXECUTABLE = 1 << 5
    """All the entries used allow fetches."""
    LINEAR_VALID = 1 << 7
    """The guest linear-address field is valid."""
    FINAL = 1 << 8
    """With LINEAR_VALID: the access was to the page itself. Clear: to a guest paging-structure entry."""


def eptp_of(root: int, *, accessed_dirty: bool = False) -> int:
    """The EPTP of the 4-level tables whose PML4 table is at Hpa `root`, walked as write-back memory."""
    return root | MemoryType.WB | EPTP_WALK_LENGTH_4 | (EPTP_ACCESSED_DIRTY if accessed_dirty else 0)


def is_valid_eptp(eptp: int) -> bool:
    """Whether VM entry accepts this EPTP (SDM Vol. 3C, 27.2.1.1).

    Bits 2..0 must be UC or WB, and bits 5..3 the walk length. Bits 11..7 must be zero, since supervisor shadow stacks
    are unsupported, and so must the bits from MAXPHYADDR on.
    """
    return eptp & ~(ADDRESS | EPTP_ACCESSED_DIRTY) in _VALID_EPTPS
