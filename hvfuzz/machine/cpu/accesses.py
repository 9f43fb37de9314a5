"""The memory accesses of a vCPU: loads, stores and fetches, through both stages and the exits they may take."""

from contextlib import suppress
from typing import Final

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, PAGE_SIZE, READ, U64, WRITE, is_canonical
from hvfuzz.machine.cpu.core import USER, Core
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, Vector
from hvfuzz.machine.cpu.vmcs import RAX, RFLAGS, RIP, ExitReason
from hvfuzz.machine.memory import BusError
from hvfuzz.machine.mmu import paging

STAGE_2_RETRIES: Final = 4
"""How often an access that violates stage 2 is tried again after its exit, before it is a machine check."""

_EMULATED: Final = -1
"""In place of an Hpa: the exit handler performed the access."""
_MOV_LENGTH: Final = 3
"""Bytes of a MOV between RAX and memory at a register, as the decoder reports it."""


class Accesses(Core):
    """Loads, stores and fetches. An operand that crosses a page is translated wholly before any of it is accessed.

    Where the handler of an EPT violation moved RIP, it performed the access (a load's result is in RAX); else the
    access is tried again. Where no memory answers, reads give ones and writes are dropped.
    """

    __slots__ = ()

    def load(self, gva: int, size: int = 8) -> int:
        """MOV from memory: `size` (1, 2, 4, 8) bytes at `gva`, zero-extended, into RAX, and returned."""
        if gva & (size - 1):
            return self._load_unaligned(gva, size)
        hpa = self._reach(gva, size, READ)
        if hpa == _EMULATED:
            return self.regs[RAX] & ((1 << (size << 3)) - 1)
        observer = self.machine.access_observer
        if observer is not None:
            observer(self, hpa, size, READ)
        try:
            value = self.memory.words[hpa >> 3] if size == 8 else self.memory.load(hpa, size)
        except (BusError, IndexError):
            value = (1 << (size << 3)) - 1
        self.regs[RAX] = value
        return value

    def store(self, gva: int, size: int, value: int) -> None:
        """MOV to memory: the low `size` (1, 2, 4, 8) bytes of `value`, which goes to RAX first, to `gva`."""
        self.regs[RAX] = value = value & U64
        if gva & (size - 1):
            self._store_unaligned(gva, size, value)
            return
        hpa = self._reach(gva, size, WRITE)
        if hpa == _EMULATED:
            return
        observer = self.machine.access_observer
        if observer is not None:
            observer(self, hpa, size, WRITE)
        try:
            if size == 8:
                self.memory.store64(hpa, value)
            else:
                self.memory.store(hpa, size, value)
        except BusError:
            return  # Nothing answers at this address: the write is lost.

    def execute(self, gva: int) -> None:
        """Probe that an instruction can be fetched from `gva` (as a jump there and back would)."""
        hpa = self._reach(gva, 1, EXEC)
        observer = self.machine.access_observer
        if observer is not None and hpa != _EMULATED:
            observer(self, hpa, 1, EXEC)

    def _reach(self, gva: int, size: int, access: int) -> int:
        """The Hpa of an operand that lies within a page, after the exits it takes; or _EMULATED."""
        attempts = 0
        while True:
            try:
                return self.mmu.translate(self, gva, access, self.cpl == USER)
            except GuestFault as fault:
                self._take(fault)
                raise
            except (EptViolation, EptMisconfiguration) as violation:
                if attempts == STAGE_2_RETRIES:
                    self._refuse(Vector.MC)
                attempts += 1
                if self._exit_on_stage_2(violation, gva, size, access):
                    return _EMULATED

    def _reach_unaligned(self, gva: int, size: int, access: int) -> tuple[tuple[int, int], ...]:
        """The pieces (hpa, bytes) of an unaligned operand, all translated before any is accessed; () if emulated."""
        user = self.cpl == USER
        # An address that is not canonical is none whose alignment matters: #GP, by `translate`.
        if user and self.cr0 & paging.CR0_AM and self.regs[RFLAGS] & paging.RFLAGS_AC and is_canonical(gva):
            self._refuse(Vector.AC)
        offset = gva & PAGE_MASK
        first = min(size, PAGE_SIZE - offset)
        attempts = 0
        while True:
            try:
                pieces: tuple[tuple[int, int], ...] = ((self.mmu.translate(self, gva, access, user), first),)
                if first < size:
                    second = (gva + first) & U64
                    pieces += ((self.mmu.translate(self, second, access, user), size - first),)
                return pieces
            except GuestFault as fault:
                self._take(fault)
                raise
            except (EptViolation, EptMisconfiguration) as violation:
                if attempts == STAGE_2_RETRIES:
                    self._refuse(Vector.MC)
                attempts += 1
                if self._exit_on_stage_2(violation, gva, size, access):
                    return ()

    def _load_unaligned(self, gva: int, size: int) -> int:
        pieces = self._reach_unaligned(gva, size, READ)
        if not pieces:
            return self.regs[RAX] & ((1 << (size << 3)) - 1)
        data = b""
        observer = self.machine.access_observer
        for hpa, n in pieces:
            if observer is not None:
                observer(self, hpa, n, READ)
            try:
                data += self.memory.read(hpa, n)
            except BusError:
                data += b"\xff" * n
        value = self.regs[RAX] = int.from_bytes(data, "little")
        return value

    def _store_unaligned(self, gva: int, size: int, value: int) -> None:
        data = (value & ((1 << (size << 3)) - 1)).to_bytes(size, "little")
        done = 0
        observer = self.machine.access_observer
        for hpa, n in self._reach_unaligned(gva, size, WRITE):
            if observer is not None:
                observer(self, hpa, n, WRITE)
            with suppress(BusError):
                self.memory.write(hpa, data[done : done + n])
            done += n

    def _exit_on_stage_2(self, violation: EptViolation | EptMisconfiguration, gva: int, size: int, access: int) -> bool:
        """Exit because stage 2 refused part of the operand at `gva`; True if the handler performed the access."""
        vmcs = self.vmcs
        vmcs.gpa = violation.gpa
        if isinstance(violation, EptViolation):
            reason = ExitReason.EPT_VIOLATION
            vmcs.qualification = violation.qualification
            vmcs.gva = gva if violation.gva is None else violation.gva
        else:
            reason = ExitReason.EPT_MISCONFIGURATION
            vmcs.qualification = 0
            vmcs.gva = 0
        vmcs.operand = gva
        vmcs.width = 0 if access == EXEC else size
        vmcs.write = access == WRITE
        vmcs.length = _MOV_LENGTH
        before = self.regs[RIP]
        self.exit(reason)
        return self.regs[RIP] != before
