"""Runs a case on our own machine: the VM entry, the fetch of the guest's instruction, its access, and the exit."""

from typing import Final, NamedTuple

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, READ, U64, WORD, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, Vector, VmEntryFailure
from hvfuzz.machine.cpu.processor_state import USER
from hvfuzz.machine.cpu.registers import Reg, Saved
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.machine.mmu.ept_walk import STAGE_1, WalkStep
from hvfuzz.references.ept import memory_map
from hvfuzz.references.ept.case import RAX, SIZE, Case, Kind, Outcome, Stop
from hvfuzz.references.ept.memory_map import (
    CODE_PD_GPA,
    MEMORY,
    REGION,
    REGION_SIZE,
    WATCHED,
    Part,
    code_gva,
    gpa_of,
    hpa_of,
)

_MOV_CR3_LENGTH: Final = 3
_PAE_RESERVED: Final = U64 & ~((1 << 40) - 1) | 0x1E6
"""Bits that must be zero in a present PAE PDPTE (SDM Vol. 3A, table 4-8)."""
_MOV_EAX: Final = 0xB8
_VMCALL: Final = 0xC1010F


class Walk(NamedTuple):
    """One stage-1 walk: for which access, and its references to guest tables."""

    access: int
    steps: tuple[WalkStep, ...]


class Unpredictable(Exception):
    """The guest would run code that this module does not know: no case for a comparison."""


class _Exited(Exception):
    """The guest left for an exit that ends its case."""


class Model:
    """A machine with `tables` in its memory, which each case finds as they were."""

    def __init__(self, tables: bytes) -> None:
        self.machine = Machine(MEMORY)
        self.vcpu: VCpu = self.machine.add_vcpu(1)
        memory = self.machine.memory
        memory.write(REGION, tables)
        rest = range(REGION + memory_map.TABLES_SIZE, REGION + REGION_SIZE, WORD)
        memory.write(rest.start, b"".join(memory_map.pattern(hpa).to_bytes(WORD, "little") for hpa in rest))
        memory.snapshot()
        self.machine.exit_handler = self._exited
        self.machine.access_observer = self._accessed
        self._case: Case
        self._hpa = 0
        self.stored: tuple[int, ...] = ()
        """Hpas of the words that the last case stored to."""
        self.touched: list[int] = []
        """Hpas that the last case's instructions accessed."""

    def run(self, case: Case, stored: tuple[int, ...] | None = None) -> Outcome:
        """The outcome of a case, with the words at `stored`, or else at those that it stores to."""
        outcome = self._run(case, None)
        return self._finished(outcome, stored)

    def explain(self, case: Case, stored: tuple[int, ...]) -> tuple[Outcome, list[Walk]]:
        """As `run`, with nothing cached, so that each stage-1 walk begins at the root; and all these walks."""
        walks: list[Walk] = []
        tlb = self.machine.tlb
        capacity = tlb.capacity
        tlb.set_capacity(0)
        try:
            outcome = self._run(case, walks)
        finally:
            self.machine.mmu.record = None
            tlb.set_capacity(capacity)
        return self._finished(outcome, stored), walks

    def _finished(self, outcome: Outcome, stored: tuple[int, ...] | None) -> Outcome:
        words = self.machine.memory.words
        hpas = (*WATCHED, *(self.stored if stored is None else stored))
        return outcome._replace(memory=tuple(words[hpa >> 3] for hpa in hpas))

    def _run(self, case: Case, walks: list[Walk] | None) -> Outcome:
        machine, vcpu = self.machine, self.vcpu
        machine.memory.restore()
        for hpa, value in case.entries:
            machine.memory.store64(hpa, value)
        machine.tlb.invept(None)
        self.stored = ()
        self.touched.clear()
        self._case = case
        vcpu.cr2 = 0
        vector = error = 0
        try:
            vcpu.vmcall()
            code = code_gva(case.user) + 16 * case.kind
            if case.kind is Kind.PDPTES:
                vector, error = self._load_pdptes(case, code)
            else:
                self._access(walks, EXEC, code)
                if self._hpa == hpa_of(Part.CODE) | code & PAGE_MASK:
                    vector = self._perform(case, walks)
                else:
                    vector = self._run_target()
        except VmEntryFailure as failure:
            return Outcome(Stop.ENTRY_FAILURE, RAX, (), error=failure.error)
        except GuestFault as fault:
            address = vcpu.cr2 if fault.vector == Vector.PF else 0
            return Outcome(Stop.EXCEPTION, self._rax(), (), vector=fault.vector, error=fault.error, address=address)
        except _Exited:
            return self._exit()
        except EptViolation as violation:
            return Outcome(
                Stop.EPT_VIOLATION,
                RAX,
                (),
                qualification=violation.qualification,
                gpa=violation.gpa,
                gva=violation.gva or 0,
            )
        except EptMisconfiguration as misconfiguration:
            return Outcome(Stop.EPT_MISCONFIGURATION, RAX, (), gpa=misconfiguration.gpa)
        if vector == Vector.PF:
            return Outcome(Stop.EXCEPTION, RAX, (), vector, error, code + _MOV_CR3_LENGTH)
        if vector:
            return Outcome(Stop.EXCEPTION, self._rax(), (), vector=vector, error=error)
        return Outcome(Stop.VMCALL, self._rax(), ())

    def _perform(self, case: Case, walks: list[Walk] | None) -> int:
        """The access of the instruction; the vector of the exception that follows it, or 0."""
        if case.kind is Kind.FETCH:
            self._access(walks, EXEC, case.gva)
            return self._run_target()
        value = RAX
        if case.kind in (Kind.LOAD, Kind.UPDATE):
            self._access(walks, READ, case.gva)
            value = self._rax() + 1
        if case.kind in (Kind.STORE, Kind.UPDATE):
            self._access(walks, WRITE, case.gva, value)
        return 0

    def _access(self, walks: list[Walk] | None, access: int, gva: int, value: int = 0) -> None:
        """One access of the vCPU; its walks go to `walks`, unless that is None."""
        mmu = self.machine.mmu
        if walks is not None:
            mmu.record = []
        try:
            if access == EXEC:
                self.vcpu.execute(gva)
            elif access == READ:
                self.vcpu.load(gva, SIZE)
            else:
                self.vcpu.store(gva, SIZE, value)
        finally:
            if walks is not None and mmu.record is not None:
                walks += _walks(access, mmu.record)

    def _run_target(self) -> int:
        """What code that is none of guest.asm does: the vector of the exception that it ends in, or 0 for a VMCALL."""
        memory = self.machine.memory
        if self._hpa >= memory.size:
            return Vector.UD  # FF FF is no instruction.
        word = memory.load64(self._hpa)
        if word & 0xFF == _MOV_EAX and word >> 40 == _VMCALL:
            self.vcpu.regs[Reg.RAX] = word >> 8 & 0xFFFF_FFFF
            return 0
        if word == 0:
            return Vector.GP  # ADD [RAX], AL, and RAX is not canonical
        raise Unpredictable(f"{word:#x} at {self._hpa:#x}")

    def _load_pdptes(self, case: Case, code: int) -> tuple[int, int]:
        """MOV to CR3 in PAE paging, which loads four PDPTEs, and the fetch behind it; (vector, error) or (0, 0).

        The vCPU of the machine is in 64-bit mode only, so the walk of the code is written out: PDPTE 0 is in the VMCS.
        """
        mmu, memory = self.machine.mmu, self.machine.memory
        entry = CODE_PD_GPA + 8 * (code >> 21)
        mmu.translate_gpa(case.eptp, entry, READ, code, walking=True)
        self._hpa = mmu.translate_gpa(case.eptp, gpa_of(Part.CODE) | code & PAGE_MASK, EXEC, code)
        if self._hpa != hpa_of(Part.CODE) | code & PAGE_MASK:
            return self._run_target(), 0
        # Not an access to a paging structure for EPT: a read even with accessed and dirty flags (SDM Vol. 3C, 29.3.5).
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

    def _rax(self) -> int:
        return self.vcpu.regs[Reg.RAX]

    def _exited(self, vcpu: VCpu) -> None:
        """The exit handler: at a VMCALL it enters the guest of the case, and any other exit ends the case."""
        if vcpu.vmcs.reason is not ExitReason.VMCALL:
            raise _Exited
        case, saved = self._case, vcpu.vmcs.saved
        vcpu.eptp = case.eptp
        saved[Reg.RAX] = RAX
        saved[Reg.RFLAGS] = case.rflags
        saved[Saved.CR0] = case.cr0
        saved[Saved.CR3] = case.cr3
        saved[Saved.CR4] = case.cr4
        saved[Saved.EFER] = case.efer
        saved[Saved.CPL] = USER if case.user else 0

    def _exit(self) -> Outcome:
        """The outcome of an exit, from what the VMCS says of it."""
        vmcs = self.vcpu.vmcs
        if vmcs.reason is ExitReason.EPT_MISCONFIGURATION:
            return Outcome(Stop.EPT_MISCONFIGURATION, self._rax(), (), gpa=vmcs.gpa)
        return Outcome(
            Stop.EPT_VIOLATION,
            self._rax(),
            (),
            qualification=vmcs.qualification,
            gpa=vmcs.gpa,
            gva=vmcs.gva if vmcs.qualification & Qualification.LINEAR_VALID else 0,
        )

    def _accessed(self, _vcpu: VCpu, hpa: int, size: int, access: int) -> None:
        """The access observer."""
        self._hpa = hpa
        self.touched.append(hpa)
        if access == WRITE and hpa < MEMORY:
            words = {hpa & ~7, (hpa + size - 1) & ~7}
            self.stored = tuple(sorted(words.union(self.stored)))


def _walks(access: int, record: list[WalkStep]) -> list[Walk]:
    """The stage-1 walks in a record of one access: each begins at level 4."""
    walks: list[Walk] = []
    for step in record:
        if step[0] == STAGE_1:
            if step[1] == 4:
                walks.append(Walk(access, ()))
            walks[-1] = Walk(access, (*walks[-1].steps, step))
    return walks
