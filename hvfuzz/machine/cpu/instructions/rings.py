"""Changes between rings 0 and 3, and the interrupt flag: SYSCALL, SYSENTER, IRET, SWAPGS, CLI, STI (SDM Vol. 2).

There is no GDT: to IRET, a selector other than the four flat ones (`exceptions`) is one of an unsuitable descriptor.
"""

from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, U64, is_canonical
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.exception_delivery import FRAME, KERNEL_CS, KERNEL_SS, USER_CS, USER_SS, refuse, require_ring_0
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.instructions.load_store import reach
from hvfuzz.machine.cpu.processor_state import RFLAGS_FIXED, USER, CpuState
from hvfuzz.machine.cpu.registers import R11, RCX, RDX, RFLAGS, RIP, RSP
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.physical_memory import BusError

_SYSRET_RFLAGS: Final = 0x3C7FD7
"""The bits of R11 that SYSRET loads (SDM Vol. 2B, SYSRET)."""
_SYSCALL_LENGTH: Final = 2
_SELECTOR: Final = 0xFFFC
"""The bits of SYSENTER_CS of which one must be set."""
IOPL_SHIFT: Final = 12
_RPL: Final = 3
_POPPED: Final = 0x3C7FD7
"""The bits of RFLAGS that IRET can load (SDM Vol. 2A, IRET)."""
_SYSTEM: Final = 3 << 12 | 1 << 19 | 1 << 20
"""IOPL, VIF and VIP: of these, the ones that IRET loads in ring 0 only."""


def syscall(cpu: CpuState) -> None:
    """SYSCALL to LSTAR in ring 0; RCX and R11 keep RIP and RFLAGS (SDM Vol. 2B, SYSCALL)."""
    if not cpu.efer & paging.EFER_SCE:
        refuse(cpu, Vector.UD)
    cpu.machine.clock.cycles += Cost.SYSCALL
    regs = cpu.regs
    regs[RCX] = (regs[RIP] + _SYSCALL_LENGTH) & U64
    regs[R11] = regs[RFLAGS]
    regs[RIP] = cpu.msrs.get(msrs.LSTAR, 0)
    regs[RFLAGS] = regs[RFLAGS] & ~cpu.msrs.get(msrs.FMASK, 0) | RFLAGS_FIXED
    cpu.cpl = 0


def sysret(cpu: CpuState) -> None:
    """SYSRET to RCX in ring 3, with the flags of R11 (SDM Vol. 2B, SYSRET).

    A non-canonical RCX is #GP(0) while still in ring 0, as on Intel processors.
    """
    if not cpu.efer & paging.EFER_SCE:
        refuse(cpu, Vector.UD)
    regs = cpu.regs
    if cpu.cpl or not is_canonical(regs[RCX]):
        refuse(cpu, Vector.GP)
    cpu.machine.clock.cycles += Cost.SYSCALL
    regs[RIP] = regs[RCX]
    regs[RFLAGS] = regs[R11] & _SYSRET_RFLAGS | RFLAGS_FIXED
    cpu.cpl = USER


def sysenter(cpu: CpuState) -> None:
    """SYSENTER to SYSENTER_EIP and SYSENTER_ESP in ring 0 (SDM Vol. 2B, SYSENTER)."""
    if not cpu.msrs.get(msrs.SYSENTER_CS, 0) & _SELECTOR:
        refuse(cpu, Vector.GP)
    cpu.machine.clock.cycles += Cost.SYSCALL
    regs = cpu.regs
    regs[RSP] = cpu.msrs.get(msrs.SYSENTER_ESP, 0)
    regs[RIP] = cpu.msrs.get(msrs.SYSENTER_EIP, 0)
    regs[RFLAGS] &= ~paging.RFLAGS_IF
    cpu.cpl = 0


def sysexit(cpu: CpuState) -> None:
    """SYSEXIT to RDX, with the stack of RCX, in ring 3; both must be canonical (SDM Vol. 2B, SYSEXIT)."""
    regs = cpu.regs
    if cpu.cpl or not cpu.msrs.get(msrs.SYSENTER_CS, 0) & _SELECTOR:
        refuse(cpu, Vector.GP)
    if not is_canonical(regs[RDX]) or not is_canonical(regs[RCX]):
        refuse(cpu, Vector.GP)
    cpu.machine.clock.cycles += Cost.SYSCALL
    regs[RSP], regs[RIP] = regs[RCX], regs[RDX]
    cpu.cpl = USER


def swapgs(cpu: CpuState) -> None:
    """SWAPGS: exchange GS_BASE and KERNEL_GS_BASE (SDM Vol. 2B, SWAPGS)."""
    require_ring_0(cpu)
    cpu.machine.clock.cycles += Cost.PRIVILEGED
    kept = cpu.msrs
    bases = kept.get(msrs.KERNEL_GS_BASE, 0), kept.get(msrs.GS_BASE, 0)
    kept[msrs.GS_BASE], kept[msrs.KERNEL_GS_BASE] = bases


def cli(cpu: CpuState) -> None:
    """CLI: clear the interrupt flag."""
    _interrupt_flag(cpu, 0)


def sti(cpu: CpuState) -> None:
    """STI: set the interrupt flag."""
    _interrupt_flag(cpu, paging.RFLAGS_IF)


def _interrupt_flag(cpu: CpuState, flag: int) -> None:
    """#GP(0) if the ring is above IOPL (SDM Vol. 2, CLI and STI)."""
    regs = cpu.regs
    if cpu.cpl > regs[RFLAGS] >> IOPL_SHIFT & 3:
        refuse(cpu, Vector.GP)
    cpu.machine.clock.cycles += Cost.PRIVILEGED
    regs[RFLAGS] = regs[RFLAGS] & ~paging.RFLAGS_IF | flag


def iret(cpu: CpuState) -> None:
    """IRETQ: pop RIP, CS, RFLAGS, RSP and SS (SDM Vol. 2A, IRET). If it faults, nothing has changed."""
    regs = cpu.regs
    # A return to a nested task is unsupported in 64-bit mode.
    if regs[RFLAGS] & paging.RFLAGS_NT:
        refuse(cpu, Vector.GP)
    rip, cs, flags, rsp, ss = FRAME.unpack(_pop(cpu, regs[RSP], FRAME.size))
    cs &= 0xFFFF
    ss &= 0xFFFF
    ring = cs & _RPL
    # The null selector, then a selector of no code segment or of a more privileged ring, then the stack segment.
    if cs & ~_RPL == 0:
        refuse(cpu, Vector.GP)
    if cs not in (KERNEL_CS, USER_CS) or ring < cpu.cpl:
        refuse(cpu, Vector.GP, cs & ~_RPL)
    if ss != (USER_SS if ring else KERNEL_SS) and (ring or ss):
        refuse(cpu, Vector.GP, ss & ~_RPL)
    if not is_canonical(rip):
        refuse(cpu, Vector.GP)
    loaded = _POPPED
    if cpu.cpl:
        loaded &= ~_SYSTEM
    if cpu.cpl > regs[RFLAGS] >> IOPL_SHIFT & 3:
        loaded &= ~paging.RFLAGS_IF
    cpu.machine.clock.cycles += Cost.EXCEPTION
    regs[RIP], regs[RSP] = rip, rsp
    regs[RFLAGS] = regs[RFLAGS] & ~_POPPED & U64 | regs[RFLAGS] & _POPPED & ~loaded | flags & loaded | RFLAGS_FIXED
    cpu.cpl = USER if ring else 0


def _pop(cpu: CpuState, gva: int, size: int) -> bytes:
    """Read `size` bytes of the stack. Exits on the way have no operand, since a handler cannot emulate IRET."""
    # #AC (SDM Vol. 3A, 6.15, interrupt 17).
    if cpu.cpl and cpu.cr0 & paging.CR0_AM and cpu.regs[RFLAGS] & paging.RFLAGS_AC and gva & 7:
        refuse(cpu, Vector.AC)
    cpu.machine.fetches.before()
    data = b""
    observer = cpu.machine.access_observer
    while len(data) < size:
        at = (gva + len(data)) & U64
        length = min(size - len(data), PAGE_SIZE - (at & PAGE_MASK))
        hpa = reach(cpu, at, 0, READ)
        if observer is not None:
            observer(cpu, hpa, length, READ)
        try:
            data += cpu.memory.read(hpa, length)
        except BusError:
            data += b"\xff" * length
    return data
