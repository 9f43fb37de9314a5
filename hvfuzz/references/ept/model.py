"""Runs a case on our own machine: VM entry, the guest's code, and the exit."""

from typing import Final

from hvfuzz.machine.addresses import WORD
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, Vector, VmEntryFailure
from hvfuzz.machine.cpu.processor_state import USER
from hvfuzz.machine.cpu.registers import Reg, Saved
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.references.bochs.disk import MEMORY, REGION
from hvfuzz.references.ept import memory_map
from hvfuzz.references.ept.case import RAX, Case, Outcome, Stop
from hvfuzz.references.ept.guest_code import MOV_CR3_LENGTH, GuestCode
from hvfuzz.references.ept.memory_map import REGION_SIZE, WATCHED, code_gva


class _Exited(Exception):
    """A VM exit that ends the case."""


class Model:
    """A machine with `tables` in its memory, which is restored before each case."""

    def __init__(self, tables: bytes) -> None:
        self.machine: Final = Machine(MEMORY)
        self.vcpu: VCpu = self.machine.add_vcpu(1)
        memory = self.machine.memory
        memory.write(REGION, tables)
        rest = range(REGION + memory_map.TABLES_SIZE, REGION + REGION_SIZE, WORD)
        memory.write(rest.start, b"".join(memory_map.pattern(hpa).to_bytes(WORD, "little") for hpa in rest))
        memory.snapshot()
        self.machine.exit_handler = self._handle_exit
        self.guest: Final = GuestCode(self.machine, self.vcpu)
        self._case: Case

    def run(self, case: Case, stored: tuple[int, ...] | None = None) -> Outcome:
        """The outcome of a case, with the words at the hpas `stored` (None: those that it stored to)."""
        return self._with_memory(self._run(case), stored)

    def _with_memory(self, outcome: Outcome, stored: tuple[int, ...] | None) -> Outcome:
        words = self.machine.memory.words
        hpas = (*WATCHED, *(self.guest.stored if stored is None else stored))
        return outcome._replace(memory=tuple(words[hpa >> 3] for hpa in hpas))

    def _run(self, case: Case) -> Outcome:
        """The outcome of a case, without memory."""
        machine, vcpu = self.machine, self.vcpu
        machine.memory.restore()
        for hpa, value in case.entries:
            machine.memory.store64(hpa, value)
        machine.tlb.invept(None)
        self.guest.reset()
        self._case = case
        vcpu.cr2 = 0
        try:
            vcpu.vmcall()
            vector, error = self.guest.run(case)
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
            # Only the fetch after MOV to CR3 ends here: all other page faults are raised.
            address = code_gva(case.user) + 16 * case.kind + MOV_CR3_LENGTH
            return Outcome(Stop.EXCEPTION, RAX, (), vector, error, address)
        if vector:
            return Outcome(Stop.EXCEPTION, self._rax(), (), vector=vector, error=error)
        return Outcome(Stop.VMCALL, self._rax(), ())

    def _rax(self) -> int:
        return self.vcpu.regs[Reg.RAX]

    def _handle_exit(self, vcpu: VCpu) -> None:
        """The exit handler: a VMCALL is answered by entering the guest of the case; any other exit ends the case."""
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
        """The outcome of an exit, from the exit information of the VMCS."""
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
