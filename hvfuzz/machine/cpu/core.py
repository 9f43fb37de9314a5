"""The core of a vCPU: its state, and the VM exit that saves and restores all of it."""

from typing import TYPE_CHECKING, Final, NoReturn

from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.faults import INVALID_CONTROL, GuestFault, Vector, VmEntryFailure
from hvfuzz.machine.cpu.vmcs import REGISTERS, RFLAGS, ExitReason, Vmcs
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.ept import eptp_of, is_valid_eptp

if TYPE_CHECKING:
    from hvfuzz.machine.machine import Machine

RUNNABLE: Final = 0
BLOCKED: Final = 1
POLLING: Final = 2
HALTED: Final = 3
STOPPED: Final = 4

USER: Final = 3
"""The CPL of user mode; supervisor mode is 0."""
CR0_AT_START: Final = paging.CR0_PE | paging.CR0_MP | paging.CR0_ET | paging.CR0_NE | paging.CR0_WP | paging.CR0_PG
EFER_AT_START: Final = paging.EFER_SCE | paging.EFER_LME | paging.EFER_LMA | paging.EFER_NXE
RFLAGS_FIXED: Final = 2
"""Bit 1 of RFLAGS is always set."""


class Reentered(RuntimeError):
    """A vCPU exits while an exit of its own is being handled: whoever handles it made it run."""


class Core:
    """State and exits; `accesses.Accesses` adds loads and stores, `cpu.VCpu` the other instructions.

    A vCPU is in 64-bit mode always, with paging on, in ring 0 or 3. Instructions have no encoding, so RIP does not
    move from one to the next: only SYSCALL, SYSRET and an exit handler (that steps over what it emulated) set it.
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

    def __init__(self, machine: "Machine", domain: int, index: int, vcpu_id: int) -> None:
        self.machine = machine
        self.memory = machine.memory
        self.mmu = machine.mmu
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
        """MSRs other than EFER; those never written are absent, and 0."""
        self.idtr: tuple[int, int] = (0, 0)
        """Base and limit of the table of gates; without one, exceptions are not delivered."""
        self.tr: tuple[int, int] = (0, 0)
        """Base and limit of the TSS."""
        self.eptp: int = eptp_of(0)
        self.vmcs: Vmcs = Vmcs()
        self.pending_fault: GuestFault | None = None
        """Set by an exit handler: what VM entry injects."""
        self.upcall_pending: bool = False
        self.runnable: int = RUNNABLE
        """RUNNABLE, BLOCKED, POLLING, HALTED, STOPPED; kept by the hypervisor, heeded by whoever runs instructions."""
        self.in_root: bool = False
        """An exit of this vCPU is being handled: it cannot run instructions."""

    def _take(self, fault: GuestFault) -> None:
        """Account for an exception that the guest gets."""
        self.machine.clock.cycles += Cost.EXCEPTION
        if fault.vector == Vector.PF:
            self.cr2 = fault.address

    def _refuse(self, vector: int, error: int = 0) -> NoReturn:
        """Give the guest an exception with that error code."""
        fault = GuestFault(vector, error)
        self._take(fault)
        raise fault

    def _privileged(self) -> None:
        """#GP(0) outside ring 0."""
        if self.cpl:
            self._refuse(Vector.GP)

    def _intercepted(self, reason: ExitReason, length: int, asked: bool = False) -> bool:
        """Take the conditional exit `reason` of an instruction of `length` bytes, if the VMCS asks for it."""
        self.machine.clock.cycles += Cost.INSTRUCTION
        if not asked and not self.vmcs.intercepts >> reason & 1:
            return False
        self.vmcs.length = length
        self.exit(reason)
        return True

    def exit(self, reason: ExitReason) -> None:
        """VM exit, the handler, VM entry: the vCPU goes on with the state that the handler leaves in `vmcs.saved`.

        Whatever the handler does to the vCPU itself is undone. Raises GuestFault if the handler set
        `pending_fault`, VmEntryFailure if `eptp` is none that the processor takes, and whatever the handler raises.
        """
        if self.in_root:
            raise Reentered(f"vCPU {self.id} exits ({reason.name}) while its exit is being handled")
        machine = self.machine
        vmcs = self.vmcs
        vmcs.reason = reason
        regs = self.regs
        vmcs.saved = [
            *regs,
            self.cr0,
            self.cr2,
            self.cr3,
            self.cr4,
            self.efer,
            self.cpl,
            self.msrs.copy(),
            self.idtr,
            self.tr,
        ]
        self.in_root = True
        clock = machine.clock
        clock.cycles += Cost.VMEXIT
        if not self.vpid:
            machine.tlb.flush_vpid(0)  # SDM Vol. 3C, 29.4.3.1; with a VPID, exits and entries invalidate nothing.
        try:
            machine.exit_handler(self)
        finally:
            self.in_root = False
        clock.cycles += Cost.VMENTRY
        if not is_valid_eptp(self.eptp):
            raise VmEntryFailure(INVALID_CONTROL)
        if not self.vpid:
            machine.tlb.flush_vpid(0)
        saved = vmcs.saved
        regs[:] = saved[:REGISTERS]
        self.cr0, self.cr2, self.cr3, self.cr4, self.efer, self.cpl, self.msrs, self.idtr, self.tr = saved[REGISTERS:]
        fault = self.pending_fault
        if fault is not None:
            self.pending_fault = None
            self._take(fault)
            raise fault
