"""Map of VT-d's registers: their offsets, the fields in them, and the capabilities they report (chapter 10.4)."""

from enum import IntEnum
from typing import Final

from hvfuzz.machine.vtd.invalidation_queue import MOST_ADDRESS_MASK

U32: Final = 2**32 - 1


class Register(IntEnum):
    """Offsets of registers; the high half of an eight-byte register is at the next doubleword."""

    VER = 0x00
    CAP = 0x08
    ECAP = 0x10
    GCMD = 0x18
    GSTS = 0x1C
    RTADDR = 0x20
    CCMD = 0x28
    FSTS = 0x34
    FECTL = 0x38
    FEDATA = 0x3C
    FEADDR = 0x40
    FEUADDR = 0x44
    IQH = 0x80
    IQT = 0x88
    IQA = 0x90
    ICS = 0x9C
    IECTL = 0xA0
    IEDATA = 0xA4
    IEADDR = 0xA8
    IEUADDR = 0xAC
    IVA = 0xF0
    """ECAP_REG.IRO gives this offset."""
    IOTLB = 0xF8
    FRCD = 0x220
    """The first fault recording register; CAP_REG.FRO gives this offset."""


RECORD_SIZE: Final = 16
VERSION: Final = 0x10
GLOBAL_TE: Final = 1 << 31
"""GCMD_REG.TE and GSTS_REG.TES: translation."""
GLOBAL_SRTP: Final = 1 << 30
"""GCMD_REG.SRTP, a one-shot command, and GSTS_REG.RTPS: root table pointer."""
GLOBAL_QIE: Final = 1 << 26
"""GCMD_REG.QIE and GSTS_REG.QIES: queued invalidation."""
CCMD_ICC: Final = 1 << 31
"""CCMD_REG.ICC, in the high half: starts the invalidation; reads as clear once it is done."""
CCMD_REQUEST_SHIFT: Final = 29
CCMD_ACTUAL_SHIFT: Final = 27
"""CIRG, the requested granularity, and CAIG, the performed one (0: none); both in the high half."""
CCMD_READABLE_LOW: Final = 0xFFFF
"""DID; SID and FM are write-only (10.4.7)."""
CCMD_READABLE_HIGH: Final = 0x1F << CCMD_ACTUAL_SHIFT
IOTLB_IVT: Final = 1 << 31
IOTLB_REQUEST_SHIFT: Final = 28
IOTLB_ACTUAL_SHIFT: Final = 25
IQT_MASK: Final = 0x7FFF0
"""QT, and QH of IQH_REG: offset of a descriptor in bytes."""
ICS_IWC: Final = 1 << 0


def capabilities(guest_width: int, records: int) -> int:
    """CAP_REG (10.4.2): 16-bit domain ids, page-selective invalidation, 2 MiB and 1 GiB pages, and the given sizes."""
    widths = 1 << 1 | (1 << 2 if guest_width >= 48 else 0)
    return (
        6
        | widths << 8
        | guest_width - 1 << 16
        | Register.FRCD >> 4 << 24
        | 3 << 34
        | 1 << 39
        | records - 1 << 40
        | MOST_ADDRESS_MASK << 48
        | 3 << 54  # Reads and writes are drained by an invalidation: here, DMA never overlaps one.
    )


EXTENDED_CAPABILITIES: Final = 1 << 0 | 1 << 1 | 1 << 6 | Register.IVA >> 4 << 8
"""ECAP_REG (10.4.3): coherent table accesses, queued invalidation, pass-through, and the offset of IVA_REG."""
