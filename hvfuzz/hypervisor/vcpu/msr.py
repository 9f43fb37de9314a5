"""Emulated MSRs, and the MSR bitmap that selects which accesses exit (SDM Vol. 3C, 25.6.9).

Accesses to MSRs that the processor holds for the guest do not exit. All others exit, and are emulated or #GP(0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.hypervisor.vcpu import apic, apic_timer, guest_clock
from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.cpu.msrs import (
    APIC_BASE,
    ARCH_CAPABILITIES,
    GUEST,
    MISC_ENABLE,
    MTRR_CAP,
    MTRR_DEFAULT,
    TSC,
    bitmap_bit,
)
from hvfuzz.machine.cpu.msrs import XAPIC_DISABLE as XAPIC

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.interfaces import ApicTimers
    from hvfuzz.machine.cpu.vcpu import VCpu

BASE = 0xFEE0_0000 | 1 << 11 | 1 << 10
"""IA32_APIC_BASE without the BSP bit: APIC enabled, in x2APIC mode (SDM Vol. 3A, 11.12.1)."""
FIRST_VCPU = 1 << 8
CONSTANT = {
    ARCH_CAPABILITIES: 1 << 21,  # IA32_XAPIC_DISABLE_STATUS exists
    XAPIC: 1,  # LEGACY_XAPIC_DISABLED: locked in x2APIC mode
    MISC_ENABLE: 1 | 1 << 11 | 1 << 12,  # fast strings; BTS and PEBS unavailable
    MTRR_CAP: 0,
    MTRR_DEFAULT: 1 << 11 | 6,  # MTRRs enabled; write-back everywhere
}
KEPT = (APIC_BASE, MISC_ENABLE)
"""Writable, but only with their current value."""


def bitmap() -> bytes:
    """The MSR bitmap of every vCPU: all accesses exit, except to MSRs that the processor holds for the guest."""
    bits = bytearray(b"\xff" * PAGE_SIZE)
    for index in GUEST:
        for write in (False, True):
            byte, bit = bitmap_bit(index, write)
            bits[byte] &= ~(1 << bit)
    return bytes(bits)


def read(hv: ApicTimers, vcpu: VCpu, index: int) -> int | None:
    """RDMSR of MSR `index`: the value, or None for #GP(0)."""
    if index in apic.MSRS:
        register = index - apic.FIRST_MSR
        # SDM Vol. 3A, 11.12.1.2: RDMSR of a reserved or write-only register is #GP(0).
        if not apic.readable(register):
            return None
        if register == apic.CURRENT_COUNT:
            return apic_timer.read(hv, vcpu)
        return apic.priority(hv, vcpu) if register == apic.PPR else apic.get(hv, vcpu, register)
    if index == TSC:
        return guest_clock.read_counter(hv, vcpu)
    return constant(vcpu, index)


def constant(vcpu: VCpu, index: int) -> int | None:
    """The value of an MSR with a constant value; None for other MSRs."""
    if index == APIC_BASE:
        return BASE if vcpu.index else BASE | FIRST_VCPU
    return CONSTANT.get(index)


def write(hv: ApicTimers, vcpu: VCpu, index: int, value: int) -> bool:
    """WRMSR of `value` to MSR `index`; False for #GP(0)."""
    if index in apic.MSRS:
        register = index - apic.FIRST_MSR
        # SDM Vol. 3A, 11.12.1.2 and 11.12.1.3: #GP(0) for a reserved or read-only register, or a reserved bit.
        if not apic.writable(register, value):
            return False
        if register in apic_timer.REGISTERS:
            apic_timer.write(hv, vcpu, register, value)
        else:
            apic.write(hv, vcpu, register, value)
        return True
    if index == TSC:
        guest_clock.write_counter(hv, vcpu, value)
        return True
    # Other values would need features that are not emulated, such as leaving x2APIC mode (SDM Vol. 3A, 11.12.5).
    return index in KEPT and value == constant(vcpu, index)
