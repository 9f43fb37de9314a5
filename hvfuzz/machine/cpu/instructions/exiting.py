"""Instructions whose main effect is a VM exit: VMCALL and CPUID always, RDTSC, RDTSCP, HLT and PAUSE if intercepted."""

from typing import Final

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.exception_delivery import exit_if_intercepted, refuse, require_ring_0, take_injected, vm_exit
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.processor_state import HALTED, CpuState
from hvfuzz.machine.cpu.registers import RAX, RCX, RDX
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.cpu.vmx_transitions import exit_and_enter
from hvfuzz.machine.mmu import paging

_VMCALL: Final = ExitReason.VMCALL
"""A global: looking up a member of an enumeration takes ten times as long."""


def vmcall(cpu: CpuState) -> None:
    """VMCALL: exits from any ring; registers hold its arguments and its results."""
    cpu.vmcs.length = 3
    # As `vm_exit`, without its call: this is the most frequent exit.
    fault = exit_and_enter(cpu, _VMCALL)
    if fault is not None:
        take_injected(cpu, fault)
        raise fault


def cpuid(cpu: CpuState, leaf: int, subleaf: int = 0) -> int:
    """CPUID of `leaf` (EAX) and `subleaf` (ECX): exits from any ring; EAX is returned."""
    cpu.regs[RAX] = leaf & 0xFFFF_FFFF
    cpu.regs[RCX] = subleaf & 0xFFFF_FFFF
    cpu.vmcs.leaf = leaf & 0xFFFF_FFFF
    cpu.vmcs.length = 2
    vm_exit(cpu, ExitReason.CPUID)
    return cpu.regs[RAX] & 0xFFFF_FFFF


def rdtsc(cpu: CpuState) -> int:
    """RDTSC: the time-stamp counter into EDX:EAX, and returned; #GP(0) outside ring 0 if CR4.TSD is set."""
    return _time_stamp(cpu, ExitReason.RDTSC, 2)


def rdtscp(cpu: CpuState) -> int:
    """RDTSCP: as RDTSC, and TSC_AUX into ECX."""
    return _time_stamp(cpu, ExitReason.RDTSCP, 3)


def _time_stamp(cpu: CpuState, reason: ExitReason, length: int) -> int:
    if cpu.cpl and cpu.cr4 & paging.CR4_TSD:
        refuse(cpu, Vector.GP)
    regs = cpu.regs
    if not exit_if_intercepted(cpu, reason, length):
        clock = cpu.machine.clock
        value = clock.cycles + cpu.vmcs.tsc_offset & U64
        clock.cycles += Cost.PRIVILEGED
        regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
        if reason is ExitReason.RDTSCP:
            regs[RCX] = cpu.msrs.get(msrs.TSC_AUX, 0)
    return (regs[RAX] & 0xFFFF_FFFF) | (regs[RDX] & 0xFFFF_FFFF) << 32


def hlt(cpu: CpuState) -> None:
    """HLT: exits, or halts the vCPU if not intercepted."""
    require_ring_0(cpu)
    if not exit_if_intercepted(cpu, ExitReason.HLT, 1):
        cpu.runnable = HALTED


def pause(cpu: CpuState) -> None:
    """PAUSE: exits if intercepted."""
    if not exit_if_intercepted(cpu, ExitReason.PAUSE, 2):
        cpu.machine.clock.cycles += Cost.PAUSE
