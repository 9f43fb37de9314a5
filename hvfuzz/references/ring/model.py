"""Runs a case on our own machine: VM entry, then the instruction or the injected event, and what follows."""

from struct import Struct
from typing import Any, Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, U64, WORD, WORDS_PER_PAGE, is_canonical
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.exception_delivery import refuse
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.processor_state import USER
from hvfuzz.machine.cpu.registers import R11, RAX, RCX, RDI, RDX, RFLAGS, RIP, RSP, Reg, Saved
from hvfuzz.machine.cpu.segments import KERNEL_CS, KERNEL_SS, USER_CS, USER_SS
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu.ept import eptp_of
from hvfuzz.machine.mmu.paging import RFLAGS_NT, RFLAGS_RF
from hvfuzz.references.bochs.disk import MEMORY, REGION
from hvfuzz.references.ring.case import COMPLETED, NO_STATE, Case, Intercept, Kind, Outcome, State
from hvfuzz.references.ring.disk_image import (
    ENTRY_FAILED,
    ERROR_CODE_VALID,
    INSTRUCTIONS,
    QUALIFIED,
    TIMES,
    without_shutdown_rf,
)
from hvfuzz.references.ring.memory_map import EPT_ROOT, IMAGE, MSR_BITMAP, PAGES, Page, hpa_of, pte_of, word_at

_EXITS: Final = {
    Intercept.INVLPG: 1 << ExitReason.INVLPG,
    Intercept.RDTSC: 1 << ExitReason.RDTSC | 1 << ExitReason.RDTSCP,
    Intercept.CR3: 1 << ExitReason.CR_ACCESS,
    Intercept.CR0_CR4: 1 << ExitReason.CR_ACCESS,
    Intercept.MSR: 1 << ExitReason.RDMSR | 1 << ExitReason.WRMSR,
    Intercept.IO: 1 << ExitReason.IO,
    Intercept.HLT: 1 << ExitReason.HLT,
    Intercept.PAUSE: 1 << ExitReason.PAUSE,
}
"""What each intercept is in `Vmcs.intercepts`."""
_MOVES_RIP: Final = (Kind.INT, Kind.IRET, Kind.SYSCALL, Kind.SYSRET, Kind.SYSENTER, Kind.SYSEXIT, Kind.INJECT)
"""What sets RIP; our instructions have no encoding, so the others leave RIP where it is."""
_SETS_RF: Final = tuple(kind for kind in _MOVES_RIP if kind is not Kind.SYSEXIT)
_WIDTH: Final = {Kind.IN8: 1, Kind.IN16: 2, Kind.IN32: 4, Kind.OUT8: 1, Kind.OUT16: 2, Kind.OUT32: 4}
_DESCRIPTOR: Final = Struct("<QQ")
"""Of INVPCID: PCID and linear address (SDM Vol. 2A, INVPCID)."""
_POINTER: Final = Struct("<HQ")
"""Of LIDT: limit and base."""
MANUAL_ORDER: Final = (0, 1, 2, 3, 4)
"""The order in which IRET reads its frame (SDM Vol. 2A, IRET)."""
_MSRS: Final = (
    msrs.SYSENTER_CS,
    msrs.SYSENTER_ESP,
    msrs.SYSENTER_EIP,
    msrs.PAT,
    msrs.FS_BASE,
    msrs.GS_BASE,
    msrs.STAR,
    msrs.LSTAR,
    msrs.CSTAR,
    msrs.FMASK,
    msrs.KERNEL_GS_BASE,
    msrs.TSC_AUX,
)
"""In the order of the last fields of State, and of those of Case before the words."""
_FIRST_MSR: Final = Case._fields.index("sysenter_cs")
_PAGES: Final = tuple((hpa_of(page), pte_of(page)) for page in PAGES)
_WORDS: Final = Struct(f"<{WORDS_PER_PAGE}Q")


class _Exited(Exception):
    """A VM exit that ends the case."""


class Model:
    """A machine with IMAGE in its memory, which is restored before each case."""

    def __init__(self) -> None:
        self.machine: Final = Machine(MEMORY)
        self.vcpu: VCpu = self.machine.add_vcpu(1)
        self.reset_pat: Final = self.vcpu.msrs.get(msrs.PAT, 0)
        self.machine.memory.write(REGION, IMAGE)
        self.machine.memory.snapshot()
        self.machine.exit_handler = self._handle_exit
        self._case: Case
        self._order: tuple[int, ...] | None = None
        self._entered = False
        self._event = 0, 0
        """IDT-vectoring information and error code of the exit that ended the case."""

    def run(self, case: Case, order: tuple[int, ...] | None = None) -> Outcome:
        """The outcome of a case; before an IRET, the words of its frame are read in this order."""
        machine, vcpu = self.machine, self.vcpu
        memory = machine.memory
        memory.restore()
        for hpa, value in case.words:
            memory.store64(hpa, value)
        machine.tlb.invept(None)
        vcpu.eptp = eptp_of(EPT_ROOT)
        vcpu.cpl = 0
        vcpu.vmcs.vectoring = 0
        self._case, self._order = case, order
        self._entered = False
        faulted = False
        try:
            vcpu.vmcall()
            self._perform(case)
        except GuestFault:
            faulted = True
        except _Exited:
            return self._exit(case)
        state = self._state(vcpu.regs)
        if not faulted:
            if case.kind not in _SETS_RF:
                # A completed instruction clears RF; our processor does so where it matters (`rings`).
                state = state._replace(rflags=state.rflags & ~RFLAGS_RF)
            if case.kind not in _MOVES_RIP:
                state = state._replace(rip=(case.rip + len(case.code)) & U64)
            if case.kind in TIMES:
                state = state._replace(rax=0, rdx=0)
        return Outcome(COMPLETED, state, self._changed(case))

    def _handle_exit(self, vcpu: VCpu) -> None:
        """The exit handler: the first VMCALL is answered by entering the guest of the case; any other exit ends it."""
        if self._entered:
            vmcs = vcpu.vmcs
            self._event = vmcs.vectoring, vmcs.vectoring_error
            raise _Exited
        self._entered = True
        case, vmcs = self._case, vcpu.vmcs
        saved = vmcs.saved
        saved[Reg.RIP], saved[Reg.RSP], saved[Reg.RFLAGS] = case.rip, case.rsp, case.rflags
        saved[Reg.RAX], saved[Reg.RCX], saved[Reg.RDX] = case.rax, case.rcx, case.rdx
        saved[Reg.RDI], saved[Reg.R11] = case.rdi, case.r11
        saved[Saved.CR0], saved[Saved.CR2], saved[Saved.CR3], saved[Saved.CR4] = case.cr0, case.cr2, case.cr3, case.cr4
        saved[Saved.EFER] = case.efer
        saved[Saved.CPL] = USER if case.user else 0
        saved[Saved.CS] = USER_CS if case.user else KERNEL_CS
        saved[Saved.SS] = saved[Saved.CPL] if case.null_ss else USER_SS if case.user else KERNEL_SS
        saved[Saved.IDTR] = (case.idt, case.idt_limit)
        saved[Saved.TR] = (case.tss, case.tss_limit)
        saved[Saved.MSRS] = dict(zip(_MSRS, case[_FIRST_MSR:-1], strict=True))
        vmcs.intercepts = 0
        for intercept, bits in _EXITS.items():
            if case.intercepts >> intercept & 1:
                vmcs.intercepts |= bits
        vmcs.msr_bitmap = MSR_BITMAP if case.intercepts >> Intercept.MSR_BITMAP & 1 else 0
        if case.kind is Kind.INJECT:
            vcpu.pending_fault = GuestFault(case.argument, case.error)

    def _perform(self, case: Case) -> None:
        """The instruction of the case."""
        vcpu, kind = self.vcpu, case.kind
        match kind:
            case Kind.INT:
                vcpu.interrupt(case.argument)
            case Kind.MOV_CR | Kind.MOV_CR8:
                vcpu.mov_cr(8 if kind is Kind.MOV_CR8 else case.argument >> 3 & 7, case.rax)
            case Kind.IRET:
                if self._order is not None and not case.rflags & RFLAGS_NT:
                    self._touch_frame(case)
                vcpu.iret()
            case Kind.READ_CR:
                vcpu.read_cr(case.argument >> 3 & 7)
            case Kind.INVLPG:
                vcpu.invlpg(case.rdi)
            case Kind.INVPCID:
                pcid, gva = self._operand(case, _DESCRIPTOR)
                vcpu.invpcid(case.rax, pcid, gva)
            case Kind.LIDT:
                limit, base = self._operand(case, _POINTER)
                vcpu.lidt(base, limit)
            case Kind.LOAD:
                vcpu.load(case.rdi)
            case Kind.STORE:
                vcpu.store(case.rdi, WORD, case.rax)
            case Kind.RDMSR:
                vcpu.rdmsr(case.rcx)
            case Kind.WRMSR:
                vcpu.wrmsr(case.rcx, case.rdx << 32 | case.rax)
            case Kind.IN8 | Kind.IN16 | Kind.IN32:
                value = vcpu.inp(case.rdx, _WIDTH[kind])
                vcpu.regs[RAX] = value if kind is Kind.IN32 else case.rax & -1 << 8 * _WIDTH[kind] | value
            case Kind.OUT8 | Kind.OUT16 | Kind.OUT32:
                vcpu.out(case.rdx, _WIDTH[kind], case.rax)
            case Kind.CPUID:
                vcpu.cpuid(case.rax, case.rcx)
            case _:
                getattr(vcpu, kind.name.lower())()

    def _touch_frame(self, case: Case) -> None:
        """Read the words of the frame as IRET would, in `_order`: what cannot be read ends the case."""
        vcpu = self.vcpu
        for place in self._order or ():
            gva = case.rsp + WORD * place & U64
            if not is_canonical(gva) or not is_canonical(gva + WORD - 1 & U64):
                refuse(vcpu, Vector.SS)
            vcpu.load(gva)
            vcpu.regs[RAX] = case.rax

    def _operand(self, case: Case, layout: Struct) -> tuple[int, ...]:
        """The operand at [RDI], in the page DATA; our instructions get it as arguments, and read no memory."""
        data: tuple[int, ...] = layout.unpack_from(self.machine.memory.data, hpa_of(Page.DATA) + (case.rdi & PAGE_MASK))
        return data

    def _exit(self, case: Case) -> Outcome:
        """The outcome of an exit, from the VMCS."""
        vmcs = self.vcpu.vmcs
        reason = vmcs.reason
        event, error = self._event
        if reason is ExitReason.INVALID_GUEST_STATE:
            return Outcome(reason | ENTRY_FAILED, NO_STATE, ())
        return Outcome(
            int(reason),
            without_shutdown_rf(int(reason), self._state(vmcs.saved)),
            self._changed(case),
            vmcs.qualification if reason in QUALIFIED else 0,
            vmcs.gpa if reason in (ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIGURATION) else 0,
            vmcs.gva if reason is ExitReason.EPT_VIOLATION else 0,
            event,
            error if event & ERROR_CODE_VALID else 0,
            vmcs.length if reason in INSTRUCTIONS else 0,
        )

    def _state(self, regs: list[Any]) -> State:
        """The registers: `regs` and the rest of the vCPU, which an exit does not change."""
        vcpu = self.vcpu
        values = vcpu.msrs
        return State(
            regs[RIP], regs[RSP], regs[RFLAGS], vcpu.cs, vcpu.ss, vcpu.cpl,
            regs[RAX], regs[RCX], regs[RDX], regs[RDI], regs[R11],
            vcpu.cr0, vcpu.cr2, vcpu.cr3, vcpu.cr4, 0, vcpu.efer, *vcpu.idtr, *vcpu.tr,
            *(values.get(index, 0) for index in _MSRS),
        )  # fmt: skip

    def _changed(self, case: Case) -> tuple[tuple[int, int], ...]:
        """`Outcome.memory`."""
        memory = self.machine.memory
        words = dict(case.words)
        found: list[tuple[int, int]] = []
        for hpa, entry in _PAGES:
            if hpa >> PAGE_SHIFT in memory.dirty:
                before = bytearray(IMAGE[hpa - REGION : hpa - REGION + PAGE_SIZE])
                for at, value in case.words:
                    if hpa <= at < hpa + PAGE_SIZE:
                        before[at - hpa : at - hpa + WORD] = value.to_bytes(WORD, "little")
                after = memory.read(hpa, PAGE_SIZE)
                if after != before:
                    both = enumerate(zip(_WORDS.unpack(before), _WORDS.unpack(after), strict=True))
                    found += [(hpa + WORD * place, now) for place, (old, now) in both if old != now]
            now = memory.words[entry >> 3]
            if now != words.get(entry, word_at(entry)):
                found.append((entry, now))
        return tuple(found)
