"""The specification of the MSRs that always have one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

APIC_BASE: Final = 0x1B
KEPT: Final = (APIC_BASE, 0x1A0)
"""MSRs that can be written, with what they hold."""
VALUES: Final[Mapping[int, int]] = {0xBD: 1, 0xFE: 0, 0x10A: 0x20_0000, 0x1A0: 0x1801, 0x2FF: 0x806}


def msr_value(index: int, vcpu: int) -> int | None:
    """What RDMSR gives on vCPU `vcpu` of a domain; None if it is #GP(0)."""
    if index == APIC_BASE:
        return 0xFEE0_0C00 if vcpu else 0xFEE0_0D00
    return VALUES.get(index)
