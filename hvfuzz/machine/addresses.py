"""The address spaces of the machine as distinct types, and the constants of a 4 KiB page.

    Gva --stage 1 (guest page tables)--> Gpa --stage 2 (EPT)--> Hpa <--IOMMU-- Iova

A Gfn or an Hfn is a frame number: a Gpa or an Hpa shifted right by PAGE_SHIFT.
"""

from typing import Final, NewType

Gva = NewType("Gva", int)
"""Guest virtual (linear) address."""
Gpa = NewType("Gpa", int)
"""Guest physical address: the output of stage 1 and the input of stage 2."""
Hpa = NewType("Hpa", int)
"""Host physical address: the index of a byte in PhysicalMemory."""
Iova = NewType("Iova", int)
"""I/O virtual address: what a device puts on the bus, and the IOMMU translates."""
Gfn = NewType("Gfn", int)
"""Guest frame number."""
Hfn = NewType("Hfn", int)
"""Host frame number."""

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = PAGE_SIZE - 1
"""The bits of an address that give the offset within its page."""
WORD: Final = 8
"""Bytes of a table entry; watched writes are reported in this unit, too."""
WORDS_PER_PAGE: Final = PAGE_SIZE // WORD
U64: Final = 2**64 - 1
SIZE_MASK: Final = tuple((1 << 8 * size) - 1 for size in range(WORD + 1))
"""Size of an operand in bytes, 0 to 8 -> all ones of that size, which is also what a read gives if nothing answers."""
LARGE_FRAMES: Final = 512
"""4 KiB frames in a 2 MiB page."""

MAXPHYADDR: Final = 40
"""Physical address width of this processor, for guests and the host (CPUID.80000008H:EAX[7:0])."""
FRAME_ADDRESS: Final = ((1 << MAXPHYADDR) - 1) & ~PAGE_MASK
"""The bits of a table entry that name a 4 KiB-aligned physical address."""
PHYSICAL_RESERVED: Final = ((1 << 52) - 1) & ~((1 << MAXPHYADDR) - 1)
"""The bits of a table entry that name physical addresses beyond MAXPHYADDR: reserved."""
ENTRY_ADDRESS: Final = FRAME_ADDRESS | PHYSICAL_RESERVED
"""Every bit of a table entry that is part of an address, those beyond MAXPHYADDR included."""

READ: Final = 1
WRITE: Final = 2
EXEC: Final = 4


def rights_text(rights: int) -> str:
    """READ, WRITE and EXEC as letters, for messages; "none" without any."""
    return "".join(letter for bit, letter in ((READ, "R"), (WRITE, "W"), (EXEC, "X")) if rights & bit) or "none"


CANONICAL_LOW: Final = 0
CANONICAL_HIGH: Final = (1 << 17) - 1


def is_canonical(address: int) -> bool:
    """Whether bits 63..47 of `address` are all equal (SDM Vol. 1, 3.3.7.1)."""
    top = address >> 47
    return top in (CANONICAL_LOW, CANONICAL_HIGH)
