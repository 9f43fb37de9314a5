"""Runs a case on our own machine: one vCPU, whose EPT maps every guest-physical address to itself."""

from typing import Final

from hvfuzz.machine.addresses import EXEC, MAXPHYADDR, PAGE_SHIFT, PAGE_SIZE, READ, WORD
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.registers import RAX, RFLAGS
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu import ept
from hvfuzz.references.stage1.case import (
    CR2_BEFORE,
    EPT_ROOT,
    NO_ADDRESS,
    NO_EXCEPTION,
    RAM_SIZE,
    VM_EXIT,
    Access,
    Case,
    Outcome,
    initial_memory,
)

_LEAF_SHIFT: Final = 30
_LEAF: Final = ept.LARGE | ept.RIGHTS | ept.MemoryType.WB << ept.MEMORY_TYPE_SHIFT
_TABLE_SHIFT: Final = 39


class _ExitError(Exception):
    """The vCPU exits."""


class Model:
    """Runs the accesses of a case through both stages; stage 2 is the identity, so that only stage 1 is tested."""

    def __init__(self) -> None:
        machine = Machine(RAM_SIZE)
        machine.memory.write(0, initial_memory())
        self._memory = machine.memory
        self._tlb = machine.tlb
        self._vcpu = machine.add_vcpu(1)
        self._vcpu.eptp = _identity_ept(machine)
        self._pieces: list[tuple[int, int]] = []
        """(physical address, size) of each part of the access; one that crosses a page has two."""
        machine.access_observer = lambda _vcpu, hpa, size, _access: self._pieces.append((hpa, size))
        machine.exit_handler = _refuse_exit
        machine.memory.snapshot()
        self.initial: bytes = self.memory()
        """RAM before the entries of a case are written."""

    def run(self, case: Case) -> list[Outcome]:
        """The outcome of each access; RAM first holds its initial contents with the entries of the case."""
        self._memory.restore()
        for hpa, word in case.entries:
            self._memory.store64(hpa, word)
        self._tlb.invept(None)
        vcpu = self._vcpu
        vcpu.cr0 = case.cr0
        vcpu.cr3 = case.cr3
        vcpu.cr4 = case.cr4
        vcpu.efer = case.efer
        return [self._access(access) for access in case.accesses]

    def memory(self) -> bytes:
        """All of RAM."""
        return self._memory.read(0, RAM_SIZE)

    def _access(self, access: Access) -> Outcome:
        vcpu = self._vcpu
        pieces = self._pieces
        pieces.clear()
        vcpu.cpl = 3 if access.user else 0
        vcpu.cr2 = CR2_BEFORE
        vcpu.regs[RAX] = access.value
        vcpu.regs[RFLAGS] = access.rflags
        try:
            if access.kind == READ:
                vcpu.load(access.gva, access.size)
            elif access.kind == EXEC:
                vcpu.execute(access.gva)
            else:
                vcpu.store(access.gva, access.size, access.value)
        except GuestFault as fault:
            return Outcome(fault.vector, fault.error, vcpu.cr2, vcpu.regs[RAX], NO_ADDRESS, ())
        except _ExitError:
            return Outcome(VM_EXIT, 0, vcpu.cr2, vcpu.regs[RAX], NO_ADDRESS, ())
        unbacked = sorted({hpa >> PAGE_SHIFT for hpa, _ in pieces if hpa >= RAM_SIZE})
        return Outcome(NO_EXCEPTION, 0, vcpu.cr2, vcpu.regs[RAX], pieces[0][0], tuple(unbacked))


def _refuse_exit(_vcpu: VCpu) -> None:
    raise _ExitError


def _identity_ept(machine: Machine) -> int:
    """Write an EPT of 1 GiB pages that maps each address below 2**MAXPHYADDR to itself; returns the EPTP."""
    store = machine.memory.store64
    machine.memory.fill(EPT_ROOT >> PAGE_SHIFT)
    for number in range(1 << MAXPHYADDR - _TABLE_SHIFT):
        table = EPT_ROOT + PAGE_SIZE * (number + 1)
        store(EPT_ROOT + WORD * number, table | ept.RIGHTS)
        for index in range(PAGE_SIZE // WORD):
            store(table + WORD * index, number << _TABLE_SHIFT | index << _LEAF_SHIFT | _LEAF)
    return ept.eptp_of(EPT_ROOT)
