"""Exceptions delivered to the guest's own handlers, through tables in its memory (SDM Vol. 3A, 6.14, 64-bit mode).

While IDTR has no table, as at boot, an exception ends its instruction and nothing else happens: the boot environment
has a handler of its own that goes on with the program. With a table, the vCPU is in the guest's handler afterwards, on
the stack that the gate or the TSS says, with the frame of IRET on it.

The gate and the TSS are read, and the frame is written, through both stages. An exception on the way is the guest's
next one, a double fault, or the end of the vCPU: VM exit 2. An exit on the way tells in the IDT-vectoring fields what
was being delivered, and whoever handles it takes that over.
"""

from contextlib import suppress
from struct import Struct
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, U64, WRITE, is_canonical
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.accesses import STAGE_2_RETRIES
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, Vector, combined
from hvfuzz.machine.cpu.rings import FRAME, KERNEL_CS, KERNEL_SS, USER_CS, USER_SS, Rings
from hvfuzz.machine.cpu.vmcs import RFLAGS, RIP, RSP, VECTORING_EXCEPTION, VECTORING_SOFTWARE, ExitReason
from hvfuzz.machine.memory import BusError
from hvfuzz.machine.mmu import paging

TSS_SELECTOR: Final = 0x40
"""What a task register names in error codes; there is no table that it would be an index of."""
_GATE: Final = Struct("<HHBBHII")
"""Offset 15..0, selector, IST, type and attributes, offset 31..16, offset 63..32, reserved."""
_INTERRUPT_GATE: Final = 0xE
_TRAP_GATE: Final = 0xF
_RSP0: Final = 4
_IST1: Final = 0x24
_IN_IDT: Final = 2
_EXTERNAL: Final = 1
"""Bits of an error code: it is about a gate; and about an event that no instruction asked for."""
_CLEARED: Final = 1 << 8 | paging.RFLAGS_NT | paging.RFLAGS_RF | 1 << 17
"""TF, NT, RF and VM."""
_NO_EVENT: Final = -1
_ERROR_CODE: Final = (8, 10, 11, 12, 13, 14, 17)
"""Vectors whose handlers find an error code on the stack."""


class _TakenOver(Exception):
    """An exit on the way gave the guest `fault` in place of what was being delivered, or stopped the vCPU (None)."""

    def __init__(self, fault: GuestFault | None) -> None:
        super().__init__()
        self.fault = fault


class Delivery(Rings):
    """A vCPU whose exceptions, and INT, enter the guest's handlers."""

    __slots__ = ()

    def lidt(self, base: int, limit: int) -> None:
        """LIDT with its operand as arguments: the table of gates, and its last byte; 0 is no table."""
        self._privileged()
        if not is_canonical(base):
            self._refuse(Vector.GP)
        self.machine.clock.cycles += Cost.PRIVILEGED
        self.idtr = (base & U64, limit & 0xFFFF)

    def ltr(self, base: int, limit: int) -> None:
        """LTR with the descriptor as arguments: the TSS, which holds the stacks of handlers."""
        self._privileged()
        if not is_canonical(base):
            self._refuse(Vector.GP)
        self.machine.clock.cycles += Cost.PRIVILEGED
        self.tr = (base & U64, limit & 0xFFFF)

    def interrupt(self, vector: int) -> None:
        """INT of `vector`, which the gate must allow for the present ring."""
        vector &= 0xFF
        vmcs = self.vmcs
        vmcs.vectoring = VECTORING_SOFTWARE | vector
        try:
            self._enter(vector, 0, True)
        except GuestFault as fault:
            vmcs.vectoring = 0
            self._take(fault)
            raise
        except _TakenOver as taken:
            if taken.fault is not None:
                raise taken.fault from None
        finally:
            vmcs.vectoring = 0

    def _take(self, fault: GuestFault) -> None:
        super()._take(fault)
        if self.idtr[1]:
            self._deliver(fault)

    def _deliver(self, fault: GuestFault) -> None:
        """Enter the handler of an exception, or of what becomes of it."""
        vmcs = self.vmcs
        try:
            while True:
                vmcs.vectoring = VECTORING_EXCEPTION | fault.vector
                try:
                    self._enter(fault.vector, fault.error, False)
                    return
                except GuestFault as second:
                    if second.vector == Vector.PF:
                        self.cr2 = second.address
                    after = combined(fault.vector, second)
                    if after is None:
                        vmcs.vectoring = 0
                        self.exit(ExitReason.TRIPLE_FAULT)
                        return
                    fault = after
        except _TakenOver:
            return
        finally:
            vmcs.vectoring = 0

    def _enter(self, vector: int, error: int, software: bool) -> None:
        """Go to the handler; nothing changes but memory where that is an exception."""
        external = 0 if software else _EXTERNAL
        about = vector << 3 | _IN_IDT | external
        base, limit = self.idtr
        if (vector << 4) + 15 > limit:
            raise GuestFault(Vector.GP, about)
        low, selector, ist, kind, middle, high, _ = _GATE.unpack(self._read(base + (vector << 4), 16))
        if kind & 0x1F not in (_INTERRUPT_GATE, _TRAP_GATE) or (software and kind >> 5 & 3 < self.cpl):
            raise GuestFault(Vector.GP, about)
        if not kind & 0x80:
            raise GuestFault(Vector.NP, about)
        if selector & ~3 != KERNEL_CS:
            raise GuestFault(Vector.GP, selector & ~3 | external)
        target = low | middle << 16 | high << 32
        if not is_canonical(target):
            raise GuestFault(Vector.GP, external)
        regs = self.regs
        stack = self._stack(ist & 7, external) & ~15
        flags = regs[RFLAGS]
        cs, ss = (USER_CS, USER_SS) if self.cpl else (KERNEL_CS, KERNEL_SS)
        pushed = flags if software else flags | paging.RFLAGS_RF
        frame = FRAME.pack(regs[RIP] + (2 if software else 0) & U64, cs, pushed, regs[RSP], ss)
        if vector in _ERROR_CODE and not software:
            frame = error.to_bytes(8, "little") + frame
        stack = stack - len(frame) & U64
        if not is_canonical(stack):
            raise GuestFault(Vector.SS, external)
        self._write(stack, frame)
        self.machine.clock.cycles += Cost.EXCEPTION
        flags &= ~_CLEARED
        if kind & 0x1F == _INTERRUPT_GATE:
            flags &= ~paging.RFLAGS_IF
        regs[RIP], regs[RSP], regs[RFLAGS] = target, stack, flags
        self.cpl = 0

    def _stack(self, ist: int, external: int) -> int:
        """Where the handler's stack begins: what the gate names, that of ring 0, or where the kernel is."""
        if not ist and not self.cpl:
            return self.regs[RSP]
        base, limit = self.tr
        offset = _IST1 + 8 * (ist - 1) if ist else _RSP0
        if offset + 7 > limit:
            raise GuestFault(Vector.TS, TSS_SELECTOR | external)
        stack = int.from_bytes(self._read(base + offset, 8), "little")
        if not is_canonical(stack):
            raise GuestFault(Vector.SS, external)
        return stack

    def _read(self, gva: int, size: int) -> bytes:
        """Bytes of a table of the system's: an implicit supervisor access, which SMAP holds back whatever AC is."""
        data = b""
        for hpa, length in self._pieces(gva & U64, size, READ, True):
            try:
                data += self.memory.read(hpa, length)
            except BusError:
                data += b"\xff" * length
        return data

    def _write(self, gva: int, data: bytes) -> None:
        """Bytes of the frame, on the stack of ring 0; all or nothing."""
        done = 0
        for hpa, length in self._pieces(gva, len(data), WRITE, False):
            with suppress(BusError):  # where nothing answers, the write is lost
                self.memory.write(hpa, data[done : done + length])
            done += length

    def _pieces(self, gva: int, size: int, access: int, implicit: bool) -> list[tuple[int, int]]:
        """The pieces (hpa, bytes) of an operand, all translated before any is accessed."""
        pieces = []
        while size:
            length = min(size, PAGE_SIZE - (gva & PAGE_MASK))
            pieces.append((self._locate(gva, access, implicit), length))
            gva, size = (gva + length) & U64, size - length
        observer = self.machine.access_observer
        if observer is not None:
            for hpa, length in pieces:
                observer(self, hpa, length, access)
        return pieces

    def _locate(self, gva: int, access: int, implicit: bool) -> int:
        """The Hpa of `gva` for a supervisor, after the exits that it takes."""
        regs = self.regs
        attempts = 0
        while True:
            flags = regs[RFLAGS]
            if implicit:
                regs[RFLAGS] = flags & ~paging.RFLAGS_AC
            try:
                return self.mmu.translate(self, gva, access, False)
            except (EptViolation, EptMisconfiguration) as caught:
                violation = caught
            finally:
                regs[RFLAGS] = flags
            if attempts == STAGE_2_RETRIES:
                raise GuestFault(Vector.MC)
            attempts += 1
            try:
                self._exit_on_stage_2(violation, gva, 0, access)
            except GuestFault as fault:
                raise _TakenOver(fault) from None
            if self.runnable:
                raise _TakenOver(None)
