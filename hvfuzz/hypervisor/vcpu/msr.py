"""The MSRs that a guest has by the hypervisor, and the bitmap that says which accesses exit (SDM Vol. 3C, 25.6.9).

What the processor keeps for the guest itself does not exit; all else does, and is emulated, or refused with #GP(0).
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
"""APIC_BASE but for the bit of the first vCPU: the APIC is on, in x2APIC mode."""
FIRST_VCPU = 1 << 8
CONSTANT = {
    ARCH_CAPABILITIES: 1 << 21,  # XAPIC_DISABLE is there
    XAPIC: 1,  # locked in x2APIC mode
    MISC_ENABLE: 1 | 1 << 11 | 1 << 12,  # fast strings; neither BTS nor PEBS
    MTRR_CAP: 0,
    MTRR_DEFAULT: 1 << 11 | 6,  # on: write-back everywhere
}
KEPT = (APIC_BASE, MISC_ENABLE)
"""These can be written, with the value that they have."""


def bitmap() -> bytes:
    """The bitmap of every vCPU: all accesses exit but those to MSRs that the processor keeps for the guest."""
    bits = bytearray(b"\xff" * PAGE_SIZE)
    for index in GUEST:
        for write in (False, True):
            byte, bit = bitmap_bit(index, write)
            bits[byte] &= ~(1 << bit)
    return bytes(bits)


def read(hv: ApicTimers, vcpu: VCpu, index: int) -> int | None:
    """RDMSR: the value, or None if it is #GP(0)."""
    if index in apic.MSRS:
        register = index - apic.FIRST_MSR
        if not apic.readable(register):
            return None
        if register == apic.CURRENT_COUNT:
            return apic_timer.read(hv, vcpu)
        return apic.priority(hv, vcpu) if register == apic.PPR else apic.get(hv, vcpu, register)
    if index == TSC:
        return guest_clock.read_counter(hv, vcpu)
    return constant(vcpu, index)


def constant(vcpu: VCpu, index: int) -> int | None:
    """The value of an MSR that always has the same; None for others."""
    if index == APIC_BASE:
        return BASE if vcpu.index else BASE | FIRST_VCPU
    return CONSTANT.get(index)


def write(hv: ApicTimers, vcpu: VCpu, index: int, value: int) -> bool:
    """WRMSR; False if it is #GP(0)."""
    if index in apic.MSRS:
        register = index - apic.FIRST_MSR
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
    return index in KEPT and value == constant(vcpu, index)
