"""RDMSR and WRMSR (SDM Vol. 2B), with the MSR bitmap of the VMCS (SDM Vol. 3C, 25.6.9)."""

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.exception_delivery import exit_if_intercepted, refuse, require_ring_0
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.registers import RAX, RCX, RDX
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import paging


def rdmsr(cpu: CpuState, index: int) -> int:
    """RDMSR: the MSR `index` (ECX), also in EDX:EAX; #GP(0) if the guest has no such MSR."""
    require_ring_0(cpu)
    index &= 0xFFFF_FFFF
    regs = cpu.regs
    regs[RCX] = index
    cpu.vmcs.leaf = index
    cpu.vmcs.write = False
    if not exit_if_intercepted(cpu, ExitReason.RDMSR, 2, _in_bitmap(cpu, index, False)):
        cpu.machine.clock.cycles += Cost.PRIVILEGED
        if index not in msrs.GUEST:
            refuse(cpu, Vector.GP)
        value = cpu.efer if index == msrs.EFER else cpu.msrs.get(index, 0)
        regs[RAX] = value & 0xFFFF_FFFF
        regs[RDX] = value >> 32
    return (regs[RAX] & 0xFFFF_FFFF) | (regs[RDX] & 0xFFFF_FFFF) << 32


def wrmsr(cpu: CpuState, index: int, value: int) -> None:
    """WRMSR: EDX:EAX to the MSR `index` (ECX); #GP(0) if it does not exist or cannot hold the value."""
    require_ring_0(cpu)
    index &= 0xFFFF_FFFF
    value &= U64
    regs = cpu.regs
    regs[RCX] = index
    regs[RAX] = value & 0xFFFF_FFFF
    regs[RDX] = value >> 32
    cpu.vmcs.leaf = index
    cpu.vmcs.write = True
    if exit_if_intercepted(cpu, ExitReason.WRMSR, 2, _in_bitmap(cpu, index, True)):
        return
    cpu.machine.clock.cycles += Cost.PRIVILEGED
    if not msrs.can_hold(index, value):
        refuse(cpu, Vector.GP)
    if index == msrs.EFER:
        cpu.efer = value | paging.EFER_LMA
    else:
        cpu.msrs[index] = value & 0xFFFF_FFFF if index in msrs.HALF_USED else value


def _in_bitmap(cpu: CpuState, index: int, write: bool) -> bool:
    """Whether the MSR bitmap demands an exit for this access. It does for every MSR outside its two ranges."""
    bitmap = cpu.vmcs.msr_bitmap
    if not bitmap:
        return False
    byte, bit = msrs.bitmap_bit(index, write)
    return byte < 0 or bool(cpu.memory.load(bitmap + byte, 1) >> bit & 1)
