"""The specification of the constant MSRs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

APIC_BASE: Final = 0x1B
KEPT: Final = (APIC_BASE, 0x1A0)
"""APIC_BASE and MISC_ENABLE, which accept a write of the value that they have."""
VALUES: Final[Mapping[int, int]] = {0xBD: 1, 0xFE: 0, 0x10A: 0x20_0000, 0x1A0: 0x1801, 0x2FF: 0x806}
"""XAPIC_DISABLE_STATUS, MTRRcap, ARCH_CAPABILITIES, MISC_ENABLE, MTRRdefType."""


def msr_value(index: int, vcpu: int) -> int | None:
    """The result of RDMSR on vCPU number `vcpu` of its domain; None for #GP(0)."""
    if index == APIC_BASE:
        return 0xFEE0_0C00 if vcpu else 0xFEE0_0D00
    return VALUES.get(index)
