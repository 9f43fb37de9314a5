"""Systematic cases of VM entry: each bit of the guest state that it checks; the instruction is a PAUSE."""

from collections.abc import Iterator
from itertools import product
from typing import Final

from hvfuzz.machine.addresses import PHYSICAL_RESERVED, U64
from hvfuzz.machine.mmu import paging
from hvfuzz.references.ring.case import Case, Kind
from hvfuzz.references.ring.cases.case_builder import CaseBuilder
from hvfuzz.references.ring.cases.operands import ADDRESSES, CR4_BITS, RIPS

_ADDRESSES: Final = ("idt", "tss", "sysenter_esp", "sysenter_eip", "fs_base", "gs_base", "rsp")
_TF: Final = 8
_CR0_NOT_LOADED: Final = 0x7FFA_FFD0
"""ET, reserved bits, NW and CD: bits of CR0 that VM entry does not load (SDM Vol. 3C, 27.3.2.1)."""


def entry_cases() -> Iterator[Case]:
    """All of them, in a fixed order."""
    for user, bit in product((False, True), range(64)):
        for field in ("rflags", "cr0", "cr3", "cr4", "efer", "pat"):
            if field == "rflags" and bit == _TF:
                continue
            if field == "cr0" and _CR0_NOT_LOADED >> bit & 1:
                continue
            if field == "cr3" and 1 << bit & ~PHYSICAL_RESERVED & (1 << 52) - (1 << 12):
                continue  # The guest's tables would be elsewhere.
            if field == "cr4" and bit not in CR4_BITS:
                continue
            builder = CaseBuilder(Kind.PAUSE, user)
            builder[field] ^= 1 << bit
            yield builder.finish(f"VM entry with bit {bit} of {field}")
    for field, address, user in product(_ADDRESSES, (*RIPS, *ADDRESSES), (False, True)):
        builder = CaseBuilder(Kind.PAUSE, user)
        builder[field] = address
        yield builder.finish(f"VM entry with {field} {address:#x}")
    for address in (1 << 48, 1 << 62, 1 << 63, U64 >> 1, (1 << 64) - (1 << 48) - 1, 3 << 47, 1 << 47, (1 << 47) + 8):
        for kind in (Kind.PAUSE, Kind.INJECT):
            builder = CaseBuilder(kind)
            builder["rip"] = address
            builder["argument"] = 13
            yield builder.finish(f"VM entry with RIP {address:#x}")
    for limit in (0x1_0000, 0x8000_0000):
        builder = CaseBuilder(Kind.PAUSE)
        builder["idt_limit"] = limit
        yield builder.finish(f"VM entry with IDT limit {limit:#x}")
    for efer in (0, paging.EFER_LME, paging.EFER_LMA):
        builder = CaseBuilder(Kind.PAUSE)
        builder["efer"] = efer
        yield builder.finish(f"VM entry with EFER {efer:#x}")
