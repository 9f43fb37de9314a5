"""Performs on our vCPU what the guest's code does: the routines of guest.asm, and the few words it can jump to."""

from typing import Final

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, READ, U64, WRITE
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu import paging
from hvfuzz.references.bochs.disk import MEMORY
from hvfuzz.references.ept.case import RAX, SIZE, Case, Kind
from hvfuzz.references.ept.memory_map import CODE_PD_GPA, Part, code_gva, gpa_of, hpa_of

MOV_CR3_LENGTH: Final = 3
_PAE_RESERVED: Final = U64 & ~((1 << 40) - 1) | 0x1E6
"""Bits that must be zero in a present PAE PDPTE (SDM Vol. 3A, table 4-8)."""
_MOV_EAX: Final = 0xB8
_VMCALL: Final = 0xC1010F


class Unpredictable(Exception):
    """The guest would run code that this module cannot perform; no case may do that."""


class GuestCode:
    """The guest's instructions on the vCPU of a machine, and a record of what they accessed."""

    def __init__(self, machine: Machine, vcpu: VCpu) -> None:
        self._machine: Final = machine
        self._vcpu: Final = vcpu
        self._hpa = 0
        """Hpa of the last access."""
        self.stored: tuple[int, ...] = ()
        """Hpas of the words that the last case stored to."""
        self.touched: list[int] = []
        """Hpas that the last case's instructions accessed."""
        machine.access_observer = self._accessed

    def reset(self) -> None:
        """Forget the accesses of the last case."""
        self.stored = ()
        self.touched.clear()

    def run(self, case: Case) -> tuple[int, int]:
        """Run the routine of a case: the (vector, error code) of the exception that ends it, (0, 0) for a VMCALL.

        Faults and exits of the vCPU are raised as they come.
        """
        code = code_gva(case.user) + 16 * case.kind
        if case.kind is Kind.PDPTES:
            return self._load_pdptes(case, code)
        self._access(EXEC, code)
        if self._hpa != hpa_of(Part.CODE) | code & PAGE_MASK:
            return self._run_target(), 0
        return self._perform(case), 0

    def _perform(self, case: Case) -> int:
        """Make the accesses of the routine; the vector of the exception that follows them, or 0."""
        if case.kind is Kind.FETCH:
            self._access(EXEC, case.gva)
            return self._run_target()
        value = RAX
        if case.kind in (Kind.LOAD, Kind.UPDATE):
            self._access(READ, case.gva)
            value = self._vcpu.regs[Reg.RAX] + 1
        if case.kind in (Kind.STORE, Kind.UPDATE):
            self._access(WRITE, case.gva, value)
        return 0

    def _access(self, access: int, gva: int, value: int = 0) -> None:
        """Make one access."""
        if access == EXEC:
            self._vcpu.execute(gva)
        elif access == READ:
            self._vcpu.load(gva, SIZE)
        else:
            self._vcpu.store(gva, SIZE, value)

    def _run_target(self) -> int:
        """Run the word at the last access; the vector of the exception that it ends in, or 0 for a VMCALL."""
        memory = self._machine.memory
        if self._hpa >= memory.size:
            return Vector.UD  # Reads beyond memory give all ones; FF FF is no instruction.
        word = memory.load64(self._hpa)
        if word & 0xFF == _MOV_EAX and word >> 40 == _VMCALL:
            self._vcpu.regs[Reg.RAX] = word >> 8 & 0xFFFF_FFFF
            return 0
        if word == 0:
            return Vector.GP  # ADD [RAX], AL, and RAX is not canonical
        raise Unpredictable(f"{word:#x} at {self._hpa:#x}")

    def _load_pdptes(self, case: Case, code: int) -> tuple[int, int]:
        """MOV to CR3 in PAE paging, which loads four PDPTEs, and the next fetch; (vector, error code) or (0, 0).

        Our vCPU runs in 64-bit mode only, so the walk of the code is written out here. PDPTE 0 of the code is in the
        VMCS.
        """
        mmu, memory = self._machine.mmu, self._machine.memory
        entry = CODE_PD_GPA + 8 * (code >> 21)
        mmu.translate_gpa(case.eptp, entry, READ, code, walking=True)
        self._hpa = mmu.translate_gpa(case.eptp, gpa_of(Part.CODE) | code & PAGE_MASK, EXEC, code)
        if self._hpa != hpa_of(Part.CODE) | code & PAGE_MASK:
            return self._run_target(), 0
        # EPT treats the load as a read, not as a paging-structure access, even with accessed and dirty flags enabled
        # (SDM Vol. 3C, 29.3.5).
        hpa = mmu.translate_gpa(case.eptp, case.gva & ~0x1F, READ)
        self.touched.append(hpa)
        pdptes = [memory.load64(hpa + 8 * n) if hpa < memory.size else U64 for n in range(4)]
        if any(pdpte & paging.P and pdpte & _PAE_RESERVED for pdpte in pdptes):
            return Vector.GP, 0
        if not pdptes[0] & paging.P:
            return Vector.PF, paging.PageFaultCode.I if case.efer & paging.EFER_NXE or case.cr4 & paging.CR4_SMEP else 0
        if pdptes[0] != CODE_PD_GPA | paging.P:
            raise Unpredictable(f"PDPTE {pdptes[0]:#x}")
        return 0, 0

    def _accessed(self, _vcpu: VCpu, hpa: int, size: int, access: int) -> None:
        """The machine's access observer."""
        self._hpa = hpa
        self.touched.append(hpa)
        if access == WRITE and hpa < MEMORY:
            words = {hpa & ~7, (hpa + size - 1) & ~7}
            self.stored = tuple(sorted(words.union(self.stored)))
