"""Control registers, and the instructions that invalidate translations: MOV to CR, INVLPG, INVPCID."""

from types import MappingProxyType
from typing import Final

from hvfuzz.machine.addresses import PHYSICAL_RESERVED, U64, is_canonical
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.exception_delivery import exit_if_intercepted, refuse, require_ring_0
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.registers import RAX
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.tlb import InvpcidKind

_CR0_DEFINED: Final = 0xE005_003F
_REGISTERS: Final = (0, 2, 3, 4, 8)
_TPR: Final = 8
"""CR8. The machine has no local APIC, so CR8-load and CR8-store exiting are always on (SDM Vol. 3C, 25.6.2)."""
_INVPCID_LENGTH: Final = 5
_LENGTH: Final = MappingProxyType({0: 3, 3: 3, 4: 3, _TPR: 4})
"""Bytes of the instruction: CR8 needs a REX prefix."""
_TO_CR: Final = 0
_FROM_CR: Final = 1 << 4
"""Exit qualification of a CR access, besides the number: MOV to CR, from CR, with RAX (SDM Vol. 3C, table 28-3)."""


def current_pcid(cpu: CpuState) -> int:
    """The PCID that tags the vCPU's translations now (SDM Vol. 3A, 4.10.1)."""
    return cpu.cr3 & paging.CR3_PCID if cpu.cr4 & paging.CR4_PCIDE else 0


def mov_cr(cpu: CpuState, n: int, value: int) -> None:
    """MOV to CR0, CR2, CR3, CR4 or CR8 from RAX, with the flushes it implies; #UD for others (SDM Vol. 2B, MOV)."""
    if n not in _REGISTERS:
        refuse(cpu, Vector.UD)
    require_ring_0(cpu)
    cpu.regs[RAX] = value = value & U64
    cpu.vmcs.qualification = n | _TO_CR
    if n != 2 and exit_if_intercepted(cpu, ExitReason.CR_ACCESS, _LENGTH[n], n == _TPR):
        return
    cpu.machine.clock.cycles += Cost.PRIVILEGED
    if n == 0:
        _set_cr0(cpu, value)
    elif n == 2:
        cpu.cr2 = value
    elif n == 3:
        _set_cr3(cpu, value)
    else:
        _set_cr4(cpu, value)


def read_cr(cpu: CpuState, n: int) -> int:
    """MOV from CR0, CR2, CR3, CR4 or CR8 to RAX, and returned; #UD for others (SDM Vol. 2B, MOV)."""
    if n not in _REGISTERS:
        refuse(cpu, Vector.UD)
    require_ring_0(cpu)
    cpu.vmcs.qualification = n | _FROM_CR
    # SDM Vol. 3C, 26.1.3: of the others, only MOV from CR3 can exit.
    if n in (3, _TPR) and exit_if_intercepted(cpu, ExitReason.CR_ACCESS, _LENGTH[n], n == _TPR):
        return cpu.regs[RAX]
    cpu.machine.clock.cycles += Cost.PRIVILEGED
    value = cpu.regs[RAX] = {0: cpu.cr0, 2: cpu.cr2, 3: cpu.cr3, 4: cpu.cr4}[n]
    return value


def _set_cr0(cpu: CpuState, value: int) -> None:
    """SDM Vol. 2B, MOV to control register: fixed bits must stay set, and NW requires CD."""
    # Only a change of PG implies a flush (SDM Vol. 3A, 4.10.4.1), and PG cannot change.
    if value >> 32 or value & paging.CR0_FIXED != paging.CR0_FIXED:
        refuse(cpu, Vector.GP)
    if value & paging.CR0_NW and not value & paging.CR0_CD:
        refuse(cpu, Vector.GP)
    cpu.cr0 = value & _CR0_DEFINED | paging.CR0_ET


def _set_cr3(cpu: CpuState, value: int) -> None:
    """SDM Vol. 2B, MOV to control register: reserved address bits. Flushes the new PCID unless bit 63 forbids it."""
    tagged = cpu.cr4 & paging.CR4_PCIDE
    keep = tagged and value & paging.CR3_NO_FLUSH
    if keep:
        value &= ~paging.CR3_NO_FLUSH
    if value & (PHYSICAL_RESERVED | ~((1 << 52) - 1)):
        refuse(cpu, Vector.GP)
    cpu.cr3 = value
    if not keep:
        cpu.machine.tlb.invpcid(InvpcidKind.SINGLE, cpu.vpid, current_pcid(cpu))


def _set_cr4(cpu: CpuState, value: int) -> None:
    """SDM Vol. 2B, MOV to control register: reserved bits, PAE stays set, PCIDE needs PCID 0 in CR3."""
    old = cpu.cr4
    if value & ~paging.CR4_DEFINED or not value & paging.CR4_PAE:
        refuse(cpu, Vector.GP)
    if value & ~old & paging.CR4_PCIDE and cpu.cr3 & paging.CR3_PCID:
        refuse(cpu, Vector.GP)
    cpu.cr4 = value
    # SDM Vol. 3A, 4.10.4.1: changing PGE or PAE, or clearing PCIDE, flushes all PCIDs; but PAE cannot change here.
    if (value ^ old) & paging.CR4_PGE or old & ~value & paging.CR4_PCIDE:
        cpu.machine.tlb.flush_vpid(cpu.vpid)
    elif value & ~old & paging.CR4_SMEP:
        cpu.machine.tlb.flush_pcid(cpu.vpid, current_pcid(cpu))


def invlpg(cpu: CpuState, gva: int) -> None:
    """INVLPG: drop the mappings of the page of `gva`; no effect if it is not canonical (SDM Vol. 2A, INVLPG)."""
    require_ring_0(cpu)
    cpu.vmcs.qualification = gva & U64
    if exit_if_intercepted(cpu, ExitReason.INVLPG, 3):
        return
    cpu.machine.clock.cycles += Cost.FLUSH
    if is_canonical(gva):
        cpu.machine.tlb.invlpg(cpu.vpid, current_pcid(cpu), gva)


def invpcid(cpu: CpuState, kind: int, pcid: int, gva: int = 0) -> None:
    """INVPCID with its descriptor as arguments (SDM Vol. 2A, INVPCID)."""
    require_ring_0(cpu)
    # SDM Vol. 3C, 26.1.3: "INVLPG exiting" decides, since "enable INVPCID" is 1. The exit comes before other faults.
    asked = bool(cpu.vmcs.intercepts >> ExitReason.INVLPG & 1)
    if exit_if_intercepted(cpu, ExitReason.INVPCID, _INVPCID_LENGTH, asked):
        return
    by_pcid = kind in (InvpcidKind.ADDRESS, InvpcidKind.SINGLE)
    if (
        not 0 <= kind <= InvpcidKind.ALL
        or pcid & ~paging.CR3_PCID
        or (by_pcid and pcid and not cpu.cr4 & paging.CR4_PCIDE)
        or (kind == InvpcidKind.ADDRESS and not is_canonical(gva))
    ):
        refuse(cpu, Vector.GP)
    cpu.machine.clock.cycles += Cost.FLUSH
    cpu.machine.tlb.invpcid(kind, cpu.vpid, pcid, gva)
