"""Between rings 0 and 3 and back, and the interrupt flag: SYSCALL, SYSENTER, IRET, SWAPGS (SDM Vol. 2).

There is no descriptor table. Four selectors name the flat segments that a 64-bit guest has; to IRET, any other one is
like a descriptor that is not of the kind needed there.
"""

from struct import Struct
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, U64, is_canonical
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.accesses import Accesses
from hvfuzz.machine.cpu.core import RFLAGS_FIXED, USER
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.vmcs import R11, RCX, RDX, RFLAGS, RIP, RSP
from hvfuzz.machine.memory import BusError
from hvfuzz.machine.mmu import paging

KERNEL_CS: Final = 0x10
KERNEL_SS: Final = 0x18
USER_SS: Final = 0x2B
USER_CS: Final = 0x33
FRAME: Final = Struct("<5Q")
"""RIP, CS, RFLAGS, RSP, SS."""
_SYSRET_RFLAGS: Final = 0x3C7FD7
"""The bits of R11 that SYSRET loads (SDM Vol. 2B, SYSRET)."""
_SYSCALL_LENGTH: Final = 2
_SELECTOR: Final = 0xFFFC
"""The bits of SYSENTER_CS that must not all be clear."""
IOPL_SHIFT: Final = 12
_RPL: Final = 3
_POPPED: Final = 0x3C7FD7
"""The bits of RFLAGS that are loaded; of them, IF for who may change it, and some in ring 0 only."""
_SYSTEM: Final = 3 << 12 | 1 << 19 | 1 << 20
"""IOPL, VIF and VIP."""


class Rings(Accesses):
    """A vCPU that changes its ring."""

    __slots__ = ()

    def syscall(self) -> None:
        """SYSCALL to LSTAR in ring 0; RCX and R11 keep RIP and RFLAGS (SDM Vol. 2B, SYSCALL)."""
        if not self.efer & paging.EFER_SCE:
            self._refuse(Vector.UD)
        self.machine.clock.cycles += Cost.SYSCALL
        regs = self.regs
        regs[RCX] = (regs[RIP] + _SYSCALL_LENGTH) & U64
        regs[R11] = regs[RFLAGS]
        regs[RIP] = self.msrs.get(msrs.LSTAR, 0)
        regs[RFLAGS] = regs[RFLAGS] & ~self.msrs.get(msrs.FMASK, 0) | RFLAGS_FIXED
        self.cpl = 0

    def sysret(self) -> None:
        """SYSRET to RCX in ring 3, with the flags of R11 (SDM Vol. 2B, SYSRET).

        A non-canonical RCX is #GP(0) while still in ring 0, as on Intel processors.
        """
        if not self.efer & paging.EFER_SCE:
            self._refuse(Vector.UD)
        regs = self.regs
        if self.cpl or not is_canonical(regs[RCX]):
            self._refuse(Vector.GP)
        self.machine.clock.cycles += Cost.SYSCALL
        regs[RIP] = regs[RCX]
        regs[RFLAGS] = regs[R11] & _SYSRET_RFLAGS | RFLAGS_FIXED
        self.cpl = USER

    def sysenter(self) -> None:
        """SYSENTER to SYSENTER_EIP and SYSENTER_ESP in ring 0 (SDM Vol. 2B, SYSENTER)."""
        if not self.msrs.get(msrs.SYSENTER_CS, 0) & _SELECTOR:
            self._refuse(Vector.GP)
        self.machine.clock.cycles += Cost.SYSCALL
        regs = self.regs
        regs[RSP] = self.msrs.get(msrs.SYSENTER_ESP, 0)
        regs[RIP] = self.msrs.get(msrs.SYSENTER_EIP, 0)
        regs[RFLAGS] &= ~paging.RFLAGS_IF
        self.cpl = 0

    def sysexit(self) -> None:
        """SYSEXIT to RDX, with the stack of RCX, in ring 3; both must be canonical (SDM Vol. 2B, SYSEXIT)."""
        regs = self.regs
        if self.cpl or not self.msrs.get(msrs.SYSENTER_CS, 0) & _SELECTOR:
            self._refuse(Vector.GP)
        if not is_canonical(regs[RDX]) or not is_canonical(regs[RCX]):
            self._refuse(Vector.GP)
        self.machine.clock.cycles += Cost.SYSCALL
        regs[RSP], regs[RIP] = regs[RCX], regs[RDX]
        self.cpl = USER

    def swapgs(self) -> None:
        """SWAPGS: GS_BASE and KERNEL_GS_BASE change places."""
        self._privileged()
        self.machine.clock.cycles += Cost.PRIVILEGED
        kept = self.msrs
        bases = kept.get(msrs.KERNEL_GS_BASE, 0), kept.get(msrs.GS_BASE, 0)
        kept[msrs.GS_BASE], kept[msrs.KERNEL_GS_BASE] = bases

    def cli(self) -> None:
        """CLI: clears the interrupt flag."""
        self._interrupt_flag(0)

    def sti(self) -> None:
        """STI: sets the interrupt flag."""
        self._interrupt_flag(paging.RFLAGS_IF)

    def _interrupt_flag(self, flag: int) -> None:
        regs = self.regs
        if self.cpl > regs[RFLAGS] >> IOPL_SHIFT & 3:
            self._refuse(Vector.GP)
        self.machine.clock.cycles += Cost.PRIVILEGED
        regs[RFLAGS] = regs[RFLAGS] & ~paging.RFLAGS_IF | flag

    def iret(self) -> None:
        """IRETQ: pop RIP, CS, RFLAGS, RSP and SS; nothing changes where any of it is refused."""
        regs = self.regs
        if regs[RFLAGS] & paging.RFLAGS_NT:
            self._refuse(Vector.GP)
        rip, cs, flags, rsp, ss = FRAME.unpack(self._pop(regs[RSP], FRAME.size))
        cs &= 0xFFFF
        ss &= 0xFFFF
        ring = cs & _RPL
        if cs & ~_RPL == 0:
            self._refuse(Vector.GP)
        if cs not in (KERNEL_CS, USER_CS) or ring < self.cpl:
            self._refuse(Vector.GP, cs & ~_RPL)
        if ss != (USER_SS if ring else KERNEL_SS) and (ring or ss):
            self._refuse(Vector.GP, ss & ~_RPL)
        if not is_canonical(rip):
            self._refuse(Vector.GP)
        loaded = _POPPED
        if self.cpl:
            loaded &= ~_SYSTEM
        if self.cpl > regs[RFLAGS] >> IOPL_SHIFT & 3:
            loaded &= ~paging.RFLAGS_IF
        self.machine.clock.cycles += Cost.EXCEPTION
        regs[RIP], regs[RSP] = rip, rsp
        regs[RFLAGS] = regs[RFLAGS] & ~_POPPED & U64 | regs[RFLAGS] & _POPPED & ~loaded | flags & loaded | RFLAGS_FIXED
        self.cpl = USER if ring else 0

    def _pop(self, gva: int, size: int) -> bytes:
        """Bytes of the stack. Exits on the way have no operand: nobody can carry out an IRET in the guest's place."""
        if self.cpl and self.cr0 & paging.CR0_AM and self.regs[RFLAGS] & paging.RFLAGS_AC and gva & 7:
            self._refuse(Vector.AC)
        data = b""
        observer = self.machine.access_observer
        while len(data) < size:
            at = (gva + len(data)) & U64
            length = min(size - len(data), PAGE_SIZE - (at & PAGE_MASK))
            hpa = self._reach(at, 0, READ)
            if observer is not None:
                observer(self, hpa, length, READ)
            try:
                data += self.memory.read(hpa, length)
            except BusError:
                data += b"\xff" * length
        return data
