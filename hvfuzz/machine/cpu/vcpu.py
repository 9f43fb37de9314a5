"""A virtual CPU: its privileged instructions, and those that identify it, which may fault, exit or run in the guest."""

from typing import Final

from hvfuzz.machine.addresses import PHYSICAL_RESERVED, U64, is_canonical
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.core import HALTED
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.port_io import PortIo
from hvfuzz.machine.cpu.vmcs import RAX, RCX, RDX, ExitReason, Reg, Saved, Vmcs
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.tlb import InvpcidKind

__all__ = ["ExitReason", "Reg", "Saved", "VCpu", "Vmcs"]

_CR0_FIXED: Final = paging.CR0_PE | paging.CR0_NE | paging.CR0_PG
"""Bits that must stay set in VMX operation in 64-bit mode (SDM Vol. 3D, A.7; Vol. 2B, MOV to control register)."""
_CR0_DEFINED: Final = 0xE005_003F
_CR4_DEFINED: Final = (
    0x7FC  # TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT
    | paging.CR4_PCIDE
    | paging.CR4_SMEP
    | paging.CR4_SMAP
)
"""Bits of features that the processor has (SDM Vol. 3A, 2.5)."""
_VMCALL: Final = ExitReason.VMCALL  # a member of an enumeration takes ten times as long to look up as a global
_TO_CR: Final = 0
"""Exit qualification of a CR access: MOV to CR, from RAX (SDM Vol. 3C, table 28-3)."""


class VCpu(PortIo):
    """A vCPU with all its instructions.

    Each method is one instruction: it charges the clock, and raises GuestFault if the guest gets an exception.
    """

    __slots__ = ()

    # ------------------------------------------------- instructions that exit

    def vmcall(self) -> None:
        """VMCALL, which exits from any ring; registers hold its arguments and its results."""
        self.vmcs.length = 3
        self.exit(_VMCALL)

    def cpuid(self, leaf: int, subleaf: int = 0) -> int:
        """CPUID of `leaf` (EAX) and `subleaf` (ECX), which exits from any ring; EAX is returned."""
        self.regs[RAX] = leaf & 0xFFFF_FFFF
        self.regs[RCX] = subleaf & 0xFFFF_FFFF
        self.vmcs.leaf = leaf & 0xFFFF_FFFF
        self.vmcs.length = 2
        self.exit(ExitReason.CPUID)
        return self.regs[RAX] & 0xFFFF_FFFF

    def rdtsc(self) -> int:
        """RDTSC: the time-stamp counter into EDX:EAX, and returned; #GP(0) outside ring 0 if CR4.TSD is set."""
        return self._time_stamp(ExitReason.RDTSC, 2)

    def rdtscp(self) -> int:
        """RDTSCP: as RDTSC, and TSC_AUX into ECX."""
        return self._time_stamp(ExitReason.RDTSCP, 3)

    def _time_stamp(self, reason: ExitReason, length: int) -> int:
        if self.cpl and self.cr4 & paging.CR4_TSD:
            self._refuse(Vector.GP)
        regs = self.regs
        if not self._intercepted(reason, length):
            clock = self.machine.clock
            value = clock.cycles + self.vmcs.tsc_offset & U64
            clock.cycles += Cost.PRIVILEGED
            regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
            if reason is ExitReason.RDTSCP:
                regs[RCX] = self.msrs.get(msrs.TSC_AUX, 0)
        return (regs[RAX] & 0xFFFF_FFFF) | (regs[RDX] & 0xFFFF_FFFF) << 32

    def hlt(self) -> None:
        """HLT: exits, or halts the vCPU if not intercepted."""
        self._privileged()
        if not self._intercepted(ExitReason.HLT, 1):
            self.runnable = HALTED

    def pause(self) -> None:
        """PAUSE: exits if intercepted."""
        if not self._intercepted(ExitReason.PAUSE, 2):
            self.machine.clock.cycles += Cost.PAUSE

    # ------------------------------------------------- control registers, TLB

    def pcid(self) -> int:
        """The PCID that tags the vCPU's translations at present."""
        return self.cr3 & paging.CR3_PCID if self.cr4 & paging.CR4_PCIDE else 0

    def mov_cr(self, n: int, value: int) -> None:
        """MOV to CR0, CR2, CR3 or CR4 from RAX, with the flushes it implies; others are #UD (SDM Vol. 2B, MOV)."""
        if n not in (0, 2, 3, 4):
            self._refuse(Vector.UD)
        self._privileged()
        self.regs[RAX] = value = value & U64
        if n != 2:
            self.vmcs.qualification = n | _TO_CR
            if self._intercepted(ExitReason.CR_ACCESS, 3):
                return
        self.machine.clock.cycles += Cost.PRIVILEGED
        if n == 0:
            self._set_cr0(value)
        elif n == 2:
            self.cr2 = value
        elif n == 3:
            self._set_cr3(value)
        else:
            self._set_cr4(value)

    def _set_cr0(self, value: int) -> None:
        # Clearing PE, NE or PG is refused, so no write of CR0 implies a flush: that is for changes of PG.
        if value >> 32 or value & _CR0_FIXED != _CR0_FIXED:
            self._refuse(Vector.GP)
        if value & paging.CR0_NW and not value & paging.CR0_CD:
            self._refuse(Vector.GP)
        self.cr0 = value & _CR0_DEFINED | paging.CR0_ET

    def _set_cr3(self, value: int) -> None:
        tagged = self.cr4 & paging.CR4_PCIDE
        keep = tagged and value & paging.CR3_NO_FLUSH
        if keep:
            value &= ~paging.CR3_NO_FLUSH
        if value & (PHYSICAL_RESERVED | ~((1 << 52) - 1)):
            self._refuse(Vector.GP)
        self.cr3 = value
        if not keep:
            self.machine.tlb.invpcid(InvpcidKind.SINGLE, self.vpid, self.pcid())

    def _set_cr4(self, value: int) -> None:
        old = self.cr4
        if value & ~_CR4_DEFINED or not value & paging.CR4_PAE:
            self._refuse(Vector.GP)
        if value & ~old & paging.CR4_PCIDE and self.cr3 & paging.CR3_PCID:
            self._refuse(Vector.GP)
        self.cr4 = value
        # SDM Vol. 3A, 4.10.4.1. (PAE, the other bit with such an effect, cannot change in 64-bit mode.)
        if (value ^ old) & paging.CR4_PGE or old & ~value & paging.CR4_PCIDE:
            self.machine.tlb.flush_vpid(self.vpid)
        elif value & ~old & paging.CR4_SMEP:
            self.machine.tlb.flush_pcid(self.vpid, self.pcid())

    def invlpg(self, gva: int) -> None:
        """INVLPG: drops the mappings of the page of `gva`; nothing for a non-canonical address."""
        self._privileged()
        self.vmcs.qualification = gva & U64
        if self._intercepted(ExitReason.INVLPG, 3):
            return
        self.machine.clock.cycles += Cost.FLUSH
        if is_canonical(gva):
            self.machine.tlb.invlpg(self.vpid, self.pcid(), gva)

    def invpcid(self, kind: int, pcid: int, gva: int = 0) -> None:
        """INVPCID with its descriptor as arguments (SDM Vol. 2A, INVPCID)."""
        self._privileged()
        by_pcid = kind in (InvpcidKind.ADDRESS, InvpcidKind.SINGLE)
        if (
            not 0 <= kind <= InvpcidKind.ALL
            or pcid & ~paging.CR3_PCID
            or (by_pcid and pcid and not self.cr4 & paging.CR4_PCIDE)
            or (kind == InvpcidKind.ADDRESS and not is_canonical(gva))
        ):
            self._refuse(Vector.GP)
        self.machine.clock.cycles += Cost.FLUSH
        self.machine.tlb.invpcid(kind, self.vpid, pcid, gva)

    # -------------------------------------------------------------------- MSRs

    def rdmsr(self, index: int) -> int:
        """RDMSR: the MSR `index` (ECX), also in EDX:EAX; #GP(0) if there is none."""
        self._privileged()
        index &= 0xFFFF_FFFF
        regs = self.regs
        regs[RCX] = index
        self.vmcs.leaf = index
        self.vmcs.write = False
        if not self._intercepted(ExitReason.RDMSR, 2, self._in_bitmap(index, False)):
            self.machine.clock.cycles += Cost.PRIVILEGED
            if index not in msrs.GUEST:
                self._refuse(Vector.GP)
            value = self.efer if index == msrs.EFER else self.msrs.get(index, 0)
            regs[RAX] = value & 0xFFFF_FFFF
            regs[RDX] = value >> 32
        return (regs[RAX] & 0xFFFF_FFFF) | (regs[RDX] & 0xFFFF_FFFF) << 32

    def wrmsr(self, index: int, value: int) -> None:
        """WRMSR: EDX:EAX to the MSR `index` (ECX); #GP(0) if there is none, or it cannot hold the value."""
        self._privileged()
        index &= 0xFFFF_FFFF
        value &= U64
        regs = self.regs
        regs[RCX] = index
        regs[RAX] = value & 0xFFFF_FFFF
        regs[RDX] = value >> 32
        self.vmcs.leaf = index
        self.vmcs.write = True
        if self._intercepted(ExitReason.WRMSR, 2, self._in_bitmap(index, True)):
            return
        self.machine.clock.cycles += Cost.PRIVILEGED
        if not msrs.takes(index, value):
            self._refuse(Vector.GP)
        if index == msrs.EFER:
            self.efer = value | paging.EFER_LMA
        else:
            self.msrs[index] = value

    def _in_bitmap(self, index: int, write: bool) -> bool:
        """Whether the MSR bitmap asks for the exit of an access, as it does for MSRs that it has no bits for."""
        bitmap = self.vmcs.msr_bitmap
        if not bitmap:
            return False
        byte, bit = msrs.place(index, write)
        return byte < 0 or bool(self.memory.load(bitmap + byte, 1) >> bit & 1)
