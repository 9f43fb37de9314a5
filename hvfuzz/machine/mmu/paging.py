"""Definitions of stage 1: entries, control bits, error codes (SDM Vol. 3A, 4.5 to 4.7)."""

from enum import IntFlag
from typing import Final

from hvfuzz.machine.addresses import FRAME_ADDRESS, PHYSICAL_RESERVED

# Bits of a paging-structure entry (SDM Vol. 3A, tables 4-15 to 4-20).
P: Final = 1 << 0
"""Present."""
RW: Final = 1 << 1
"""Writable."""
US: Final = 1 << 2
"""User: accessible at CPL 3."""
PWT: Final = 1 << 3
PCD: Final = 1 << 4
A: Final = 1 << 5
"""Accessed: set by the walker."""
D: Final = 1 << 6
"""Dirty: set by the walker on a write; in leaves only."""
PS: Final = 1 << 7
"""Page size: this PDPTE maps 1 GiB, this PDE maps 2 MiB. Reserved in a PML4E; the PAT bit of a PTE."""
G: Final = 1 << 8
"""Global: survives a write to CR3 while CR4.PGE is set; in leaves only."""
NX: Final = 1 << 63
"""No execution; reserved while EFER.NXE is clear."""

ADDRESS: Final = FRAME_ADDRESS
"""Bits 39..12: the Gpa of the next table or of a 4 KiB page."""

LEVEL_SHIFTS: Final = (39, 30, 21, 12)
"""Index shifts of PML4E, PDPTE, PDE, PTE; the level of an entry is 4, 3, 2, 1."""
RESERVED_PML4E: Final = PHYSICAL_RESERVED | PS
RESERVED_TABLE: Final = PHYSICAL_RESERVED
"""Reserved bits of a PDPTE or PDE that references a table, and of a PTE."""
RESERVED_1G: Final = PHYSICAL_RESERVED | ((1 << 30) - (1 << 13))
"""Bits 29..13 of a 1 GiB leaf (bit 12 is PAT)."""
RESERVED_2M: Final = PHYSICAL_RESERVED | ((1 << 21) - (1 << 13))
"""Bits 20..13 of a 2 MiB leaf (bit 12 is PAT)."""

# Control registers (SDM Vol. 3A, 2.5).
CR0_PE: Final = 1 << 0
CR0_MP: Final = 1 << 1
CR0_ET: Final = 1 << 4
CR0_NE: Final = 1 << 5
CR0_WP: Final = 1 << 16
"""Supervisor writes honour RW."""
CR0_AM: Final = 1 << 18
CR0_NW: Final = 1 << 29
CR0_CD: Final = 1 << 30
CR0_PG: Final = 1 << 31
CR0_FIXED: Final = CR0_PE | CR0_NE | CR0_PG
"""Bits that must be set in VMX operation in 64-bit mode (SDM Vol. 3D, A.7; Vol. 2B, MOV to control register)."""
CR3_PCID: Final = 0xFFF
CR3_NO_FLUSH: Final = 1 << 63
"""In a value moved to CR3 while CR4.PCIDE is set: keep the TLB entries of the new PCID."""
CR4_TSD: Final = 1 << 2
"""RDTSC and RDTSCP are #GP(0) outside ring 0."""
CR4_PAE: Final = 1 << 5
CR4_PGE: Final = 1 << 7
CR4_PCIDE: Final = 1 << 17
CR4_SMEP: Final = 1 << 20
CR4_SMAP: Final = 1 << 21
CR4_DEFINED: Final = 0x7FC | CR4_PCIDE | CR4_SMEP | CR4_SMAP
"""Bits of the features that the processor has; 0x7FC: TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT (2.5)."""
EFER_SCE: Final = 1 << 0
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
EFER_NXE: Final = 1 << 11
EFER_DEFINED: Final = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE
EFER_64_BIT: Final = EFER_LME | EFER_LMA
"""Bits that are set in 64-bit mode."""
RFLAGS_IF: Final = 1 << 9
RFLAGS_DF: Final = 1 << 10
"""String instructions decrement their addresses."""
RFLAGS_NT: Final = 1 << 14
"""Nested task: unsupported in 64-bit mode, where IRET is #GP(0)."""
RFLAGS_RF: Final = 1 << 16
"""In the frame of an exception: resume without a debug exception for the instruction."""
RFLAGS_VM: Final = 1 << 17
"""Virtual-8086 mode, which does not exist in 64-bit mode."""
RFLAGS_AC: Final = 1 << 18
"""Allows supervisor data accesses to user pages despite SMAP; in ring 3, enables alignment checks."""


class PageFaultCode(IntFlag):
    """The error code of a #PF (SDM Vol. 3A, figure 4-12)."""

    P = 1 << 0
    """The entries were present: a rights or reserved-bit violation."""
    W = 1 << 1
    """The access was a write."""
    U = 1 << 2
    """The access was a user-mode one."""
    RSVD = 1 << 3
    """A reserved bit was set in an entry."""
    I = 1 << 4  # noqa: E741  (the manual's name)
    """The access was an instruction fetch (reported only under NXE or SMEP)."""
