"""The specification of CPUID as a guest sees it, in plain numbers (SDM Vol. 2A, CPUID)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hvfuzz.abi.boot import CPUID_NAME, CPUID_SIGNATURE, CPUID_VERSION
from hvfuzz.abi.versions import CURRENT

Registers = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

_NAME: Final = tuple(int.from_bytes(CPUID_NAME[at : at + 4], "little") for at in (0, 4, 8))
CONSTANT: Final[Mapping[tuple[int, int | None], Registers]] = {
    (0, None): (0xB, 0x756E_6547, 0x6C65_746E, 0x4965_6E69),
    (7, 0): (0, 0x0010_0480, 0, 0x2000_0000),
    (0x8000_0000, None): (0x8000_0008, 0, 0, 0),
    (0x8000_0001, None): (0, 0, 0, 0x2C10_0800),
    (0x8000_0008, None): (0x3028, 0, 0, 0),
    (CPUID_SIGNATURE, None): (CPUID_VERSION, _NAME[0], _NAME[1], _NAME[2]),
    (CPUID_VERSION, None): (CURRENT, 0, 0, 0),
}
"""(leaf, subleaf; None: any) -> registers, equal on all vCPUs."""
FEATURES: Final = (0x0005_0654, 0, 0x8022_0000, 0x0701_BBFD)
"""Leaf 1 without the APIC ID, bits 31..24 of EBX."""


def cpuid(leaf: int, subleaf: int, apic_id: int, vcpus: int) -> Registers:
    """The registers after CPUID on vCPU number `apic_id` of a domain with `vcpus` vCPUs."""
    if 0xB < leaf < 0x4000_0000 or 0x5000_0000 <= leaf < 0x8000_0000 or leaf > 0x8000_0008:
        leaf = 0xB
    if leaf == 1:
        return FEATURES[0], FEATURES[1] | apic_id << 24, *FEATURES[2:]
    if leaf == 0xB:
        if subleaf == 0:
            return 0, 1, 0x100, apic_id
        width = len(f"{vcpus - 1:b}") if vcpus > 1 else 0
        return (width, vcpus, 0x201, apic_id) if subleaf == 1 else (0, 0, subleaf & 0xFF, apic_id)
    return CONSTANT.get((leaf, None)) or CONSTANT.get((leaf, subleaf)) or (0, 0, 0, 0)
