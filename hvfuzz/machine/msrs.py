"""The model-specific registers that a guest has without a hypervisor's help, and what they can hold (SDM Vol. 4)."""

from typing import Final

from hvfuzz.machine import paging
from hvfuzz.machine.addresses import is_canonical

PAT: Final = 0x277
EFER: Final = 0xC000_0080
"""Kept in `VCpu.efer`, the others in `VCpu.msrs`."""
STAR: Final = 0xC000_0081
LSTAR: Final = 0xC000_0082
FMASK: Final = 0xC000_0084
FS_BASE: Final = 0xC000_0100
GS_BASE: Final = 0xC000_0101
KERNEL_GS_BASE: Final = 0xC000_0102
TSC_AUX: Final = 0xC000_0103

GUEST: Final = (PAT, EFER, STAR, LSTAR, FMASK, FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX)
"""Any other index is #GP(0), unless the access exits."""
ADDRESSES: Final = (LSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE)
"""These take canonical addresses only."""

_EFER_DEFINED: Final = paging.EFER_SCE | paging.EFER_LME | paging.EFER_LMA | paging.EFER_NXE
_PAT_TYPES: Final = (0, 1, 4, 5, 6, 7)


def takes(index: int, value: int) -> bool:
    """Whether WRMSR of `value` to the MSR `index` succeeds, in 64-bit mode with paging on; else it is #GP(0)."""
    if index == EFER:
        # Paging is on, so LME cannot change; LMA is read-only, and what is written to it ignored.
        return not value & ~_EFER_DEFINED and bool(value & paging.EFER_LME)
    if index in ADDRESSES:
        return is_canonical(value)
    if index == PAT:
        return all(kind in _PAT_TYPES for kind in value.to_bytes(8, "little"))
    if index == TSC_AUX:
        return not value >> 32
    return index in GUEST
