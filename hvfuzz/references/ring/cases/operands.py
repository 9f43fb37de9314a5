"""What cases draw from: addresses on both sides of every border, selectors, flags, MSRs and ports."""

from itertools import product
from typing import Final

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.processor_state import EFER_AT_START
from hvfuzz.machine.mmu import paging
from hvfuzz.references.ring.memory_map import HIGH, HOLE, MIDDLE, Page, gva_of

RIPS: Final = (
    0,
    0x1234,
    MIDDLE - 1,
    MIDDLE,
    MIDDLE + 8,
    1 << 62,
    HIGH - 1,
    HIGH,
    HIGH + 0x1234,
    U64,
    0x1_0000_0000,
)
"""Addresses to go to; nothing runs there."""
SELECTORS: Final = (
    0, 1, 3, 4, 8, 0x10, 0x11, 0x13, 0x14, 0x18, 0x1B, 0x20, 0x23, 0x28, 0x2A, 0x2B, 0x30, 0x31, 0x33, 0x37, 0x38,
    0x3B, 0x40, 0x43, 0x48, 0x50, 0x58, 0xFFF8, 0xFFFF,
)  # fmt: skip
STACKS: Final = (
    gva_of(Page.LOW_END) + 0x800,
    gva_of(Page.LOW_END) + 0x18,
    gva_of(Page.LOW_END) + 0x20,
    gva_of(Page.LOW_END),
    gva_of(Page.LOW_END) + 0x807,
    gva_of(Page.LOW_END) + 0x808,
    HIGH,
    HIGH + 8,
    HIGH + 0x10,
    HIGH + 0x20,
    HIGH + 0x28,
    HIGH + 0x30,
    HIGH + 0x40,
    MIDDLE,
    MIDDLE + 8,
    MIDDLE + 0x10,
    MIDDLE + 0x28,
    MIDDLE + 0x30,
    MIDDLE - 8,
    0,
    8,
    0x10,
    0x28,
    0x30,
    U64 & ~7,
    1 << 62,
    gva_of(HOLE) + 0x800,
    gva_of(HOLE) + 0x1010,
    gva_of(Page.USER_STACK_END) + 0x800,
    gva_of(Page.KERNEL_CODE) + 0x800,
)
"""Stack pointers: in pages of every kind, and near all borders of pages and of canonical addresses."""
RFLAGS_BITS: Final = (
    1 << 0,
    1 << 6,
    1 << 7,
    paging.RFLAGS_IF,
    paging.RFLAGS_DF,
    1 << 11,
    1 << 12,
    3 << 12,
    2 << 12,
    paging.RFLAGS_NT,
    paging.RFLAGS_RF,
    paging.RFLAGS_AC,
    1 << 19,
    1 << 20,
    1 << 21,
)
"""CF, ZF, SF, IF, DF, OF, IOPL, NT, RF, AC, VIF, VIP, ID: what a guest can have set; without TF, there is no #DB."""
FAULT_PAGES: Final = (paging.P, paging.RW, paging.US, paging.NX, 1 << 45)
"""Bits of a guest entry whose change refuses an access."""
EPT_RIGHTS: Final = (0, 1, 2, 4, 5, 6, 3)
PORTS: Final = (0, 1, 7, 8, 0x3F8, 0x3FF, 0x7FFF, 0x8000, 0xCF8, 0xFFFC, 0xFFFE, 0xFFFF)
LIMITS: Final = (1, 0xF, 0x10, 0x7FF, 0xFFE, 0xFFF, 0xFFFF)
GATE_KINDS: Final = tuple(present << 7 | dpl << 5 | kind for present, dpl, kind in product((0, 1), (0, 3), range(32)))
ADDRESSES: Final = (1 << 47, 1 << 48, 1 << 63, MIDDLE - 0x1000, HIGH - 0x1000, U64 - 0xFFF)
LACKING_CR4: Final = frozenset({0, 1, 13, 14, 16, 18, 22})
"""Bits of CR4 of features that Bochs' processor has and ours lacks, or that the stub needs: VME, PVI, VMXE, SMXE,
FSGSBASE, OSXSAVE, PKE."""
CR4_BITS: Final = tuple(bit for bit in range(64) if bit not in LACKING_CR4)
MSR_INDEXES: Final = (
    *msrs.GUEST,
    0x173,
    0x12345,
    0x2000,
    0x4000_0000,
    0xBFFF_FFFF,
    0xC000_0085,
    0xC000_1FFF,
    0xC000_2000,
)
"""Every MSR of the guest, and some that neither our processor nor Bochs' has, at the borders of the bitmap."""
MSR_VALUES: Final = (
    0,
    1,
    0x1234_5678,
    1 << 32,
    EFER_AT_START,
    EFER_AT_START ^ paging.EFER_SCE,
    EFER_AT_START ^ paging.EFER_LME,
    EFER_AT_START ^ paging.EFER_LMA,
    EFER_AT_START ^ paging.EFER_NXE,
    msrs.PAT_AT_RESET,
    MIDDLE - 1,
    MIDDLE,
    HIGH - 1,
    HIGH,
    1 << 48,
    1 << 63,
    U64,
    U64 >> 1,
)
