"""The model-specific registers that the processor gives a guest, and the values they can hold (SDM Vol. 4)."""

from typing import Final

from hvfuzz.machine.addresses import is_canonical
from hvfuzz.machine.mmu import paging

TSC: Final = 0x10
APIC_BASE: Final = 0x1B
XAPIC_DISABLE: Final = 0xBD
MTRR_CAP: Final = 0xFE
ARCH_CAPABILITIES: Final = 0x10A
SYSENTER_CS: Final = 0x174
SYSENTER_ESP: Final = 0x175
SYSENTER_EIP: Final = 0x176
MISC_ENABLE: Final = 0x1A0
PAT: Final = 0x277
MTRR_DEFAULT: Final = 0x2FF
PAT_AT_RESET: Final = 0x0007_0406_0007_0406
"""SDM Vol. 3A, table 12-12."""
EFER: Final = 0xC000_0080
"""Kept in `CpuState.efer`; the others are in `CpuState.msrs`."""
STAR: Final = 0xC000_0081
LSTAR: Final = 0xC000_0082
CSTAR: Final = 0xC000_0083
FMASK: Final = 0xC000_0084
FS_BASE: Final = 0xC000_0100
GS_BASE: Final = 0xC000_0101
KERNEL_GS_BASE: Final = 0xC000_0102
TSC_AUX: Final = 0xC000_0103

GUEST: Final = (
    SYSENTER_CS,
    SYSENTER_ESP,
    SYSENTER_EIP,
    PAT,
    EFER,
    STAR,
    LSTAR,
    CSTAR,
    FMASK,
    FS_BASE,
    GS_BASE,
    KERNEL_GS_BASE,
    TSC_AUX,
)
"""MSRs that exist; any other index is #GP(0), unless the access exits."""
ADDRESSES: Final = (SYSENTER_ESP, SYSENTER_EIP, LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE)
"""MSRs that hold canonical addresses only (SDM Vol. 2B, WRMSR)."""

_LOW: Final = range(0x2000)
_HIGH: Final = range(0xC000_0000, 0xC000_2000)
_BITMAP: Final = 1024
"""Bytes of each of the four bitmaps: reads low, reads high, writes low, writes high (SDM Vol. 3C, 25.6.9)."""
_PAT_TYPES: Final = (0, 1, 4, 5, 6, 7)
HALF_USED: Final = (SYSENTER_CS,)
"""MSRs whose bits 63..32 are not used: writes ignore them, and the VMCS has no room for them (SDM Vol. 3C, 25.4.1)."""


def can_hold(index: int, value: int) -> bool:
    """Whether WRMSR can write `value` to the MSR `index` in 64-bit mode with paging on; otherwise it is #GP(0)."""
    if index == EFER:
        # SDM Vol. 3A, 2.2.1: LME cannot change while paging is on; LMA is read-only, and writes to it are ignored.
        return not value & ~paging.EFER_DEFINED and bool(value & paging.EFER_LME)
    if index in ADDRESSES:
        return is_canonical(value)
    # SDM Vol. 3A, 12.12.2: reserved memory types.
    if index == PAT:
        return all(kind in _PAT_TYPES for kind in value.to_bytes(8, "little"))
    if index in (TSC_AUX, FMASK):
        return not value >> 32
    return index in GUEST


def bitmap_bit(index: int, write: bool) -> tuple[int, int]:
    """(byte, bit) of an access in the MSR bitmap; (-1, 0) for an MSR outside the bitmap, whose accesses always exit."""
    if index not in _LOW and index not in _HIGH:
        return -1, 0
    byte = (index & 0x1FFF) >> 3
    return byte + _BITMAP * ((index in _HIGH) + 2 * write), index & 7
