"""What a vCPU holds: registers, control state, VMCS, and the platform that it runs on."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, Protocol

from hvfuzz.machine.clock import Clock
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.registers import REGISTERS, RFLAGS
from hvfuzz.machine.cpu.vmcs import Vmcs
from hvfuzz.machine.fetches import Fetches
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.ept import eptp_of
from hvfuzz.machine.mmu.stage1 import Mmu
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.physical_memory import PhysicalMemory

ExitHandler = Callable[[Any], None]
"""Called with the VCpu that exits."""
AccessObserver = Callable[[Any, int, int, int], None]
"""Called with (VCpu or Device, hpa, size in bytes, READ or WRITE or EXEC) before each access to memory."""

USER: Final = 3
"""The CPL of user mode; supervisor mode is 0."""
CR0_AT_START: Final = paging.CR0_PE | paging.CR0_MP | paging.CR0_ET | paging.CR0_NE | paging.CR0_WP | paging.CR0_PG
EFER_AT_START: Final = paging.EFER_SCE | paging.EFER_LME | paging.EFER_LMA | paging.EFER_NXE
RFLAGS_FIXED: Final = 2
"""Bit 1 of RFLAGS is always set (SDM Vol. 1, 3.4.3)."""


class RunState(IntEnum):
    """Values of `CpuState.runnable`; only a vCPU in the state 0 runs instructions."""

    RUNNABLE = 0
    BLOCKED = 1
    POLLING = 2
    HALTED = 3
    STOPPED = 4


# Plain ints for hot code: looking up a member of an enumeration takes several times as long.
POLLING: Final = int(RunState.POLLING)
HALTED: Final = int(RunState.HALTED)


class Platform(Protocol):
    """The parts of the machine that a vCPU uses."""

    @property
    def clock(self) -> Clock: ...

    @property
    def memory(self) -> PhysicalMemory: ...

    @property
    def tlb(self) -> Tlb: ...

    @property
    def mmu(self) -> Mmu: ...

    @property
    def fetches(self) -> Fetches: ...

    exit_handler: ExitHandler
    access_observer: AccessObserver | None


class CpuState:
    """The state of one vCPU. `VCpu` adds the instructions.

    A vCPU is always in 64-bit mode with paging on, in ring 0 or 3. Instructions have no encoding, so RIP does not
    advance from one to the next: only SYSCALL, SYSENTER, their returns, IRET, the delivery of an exception, and an
    exit handler that steps over an emulated instruction set it.
    """

    __slots__ = (
        "cpl",
        "cr0",
        "cr2",
        "cr3",
        "cr4",
        "domain",
        "efer",
        "eptp",
        "id",
        "idtr",
        "in_root",
        "index",
        "machine",
        "memory",
        "mmu",
        "msrs",
        "pending_fault",
        "regs",
        "runnable",
        "tr",
        "upcall_pending",
        "vmcs",
        "vpid",
    )

    def __init__(self, machine: Platform, domain: int, index: int, vcpu_id: int) -> None:
        self.machine: Platform = machine
        self.memory: PhysicalMemory = machine.memory
        self.mmu: Mmu = machine.mmu
        self.domain: int = domain
        self.index: int = index
        """Number within the domain."""
        self.id: int = vcpu_id
        """Number within the machine."""
        self.vpid: int = vcpu_id + 1
        """Tag of its cached translations. 0, the host's, means that VPIDs are off: then each exit and entry flushes."""
        self.regs: list[int] = [0] * REGISTERS
        """General registers, RIP and RFLAGS, indexed by Reg."""
        self.regs[RFLAGS] = RFLAGS_FIXED
        self.cr0: int = CR0_AT_START
        self.cr2: int = 0
        self.cr3: int = 0
        self.cr4: int = paging.CR4_PAE
        self.efer: int = EFER_AT_START
        self.cpl: int = 0
        self.msrs: dict[int, int] = {}
        """MSRs other than EFER. One that was never written is absent and reads 0."""
        self.idtr: tuple[int, int] = (0, 0)
        """Base and limit of the IDT. With the limit 0 there is no IDT, and exceptions are not delivered."""
        self.tr: tuple[int, int] = (0, 0)
        """Base and limit of the TSS."""
        self.eptp: int = eptp_of(0)
        self.vmcs: Vmcs = Vmcs()
        self.pending_fault: GuestFault | None = None
        """The exception that the next VM entry injects; an exit handler sets it."""
        self.upcall_pending: bool = False
        """Kept by the hypervisor: an event waits for this vCPU."""
        self.runnable: int = int(RunState.RUNNABLE)
        """A RunState. The hypervisor sets it; the caller of an instruction must check it first."""
        self.in_root: bool = False
        """An exit of this vCPU is being handled, so it cannot run instructions."""
