"""Encodes cases for the stub, and decodes the results that it writes. The format is that of stub.asm."""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from hvfuzz.machine.addresses import U64, WORD
from hvfuzz.machine.cpu.segments import KERNEL_CS, KERNEL_SS, USER_CS, USER_SS
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu.paging import RFLAGS_RF
from hvfuzz.references.bochs.disk import encode_batch, encode_pairs, results_of
from hvfuzz.references.reference import ReferenceError
from hvfuzz.references.ring.case import COMPLETED, NO_STATE, Case, Intercept, Kind, Outcome, State
from hvfuzz.references.ring.memory_map import IMAGE, PAGES, hpa_of, pte_of

CR4_VMXE: Final = 1 << 13
"""Set in VMX operation; the guest sees it clear, by the guest/host mask."""
ENTRY_FAILED: Final = 1 << 31
"""Of the exit reason."""
PREEMPTION_TIMER: Final = 52
"""The exit reason after an instruction."""
WORDS: Final = 24
"""Greatest number of words that a case changes: the frames of three events, and the entries of the pages."""
ERROR_CODE_VECTORS: Final = (8, 10, 11, 12, 13, 14, 17)
VALID: Final = 1 << 31
ERROR_CODE_VALID: Final = 1 << 11
HARDWARE_EXCEPTION: Final = 3 << 8

_CASE: Final = Struct("<43Q")
_RESULT: Final = Struct("<47Q")
_WORD: Final = Struct("<2Q")
_MOV_SS_BLOCKING: Final = 2
_UNUSABLE: Final = 1 << 16
_CONTROLS: Final = 1 << 31 | 1 << 19 | 0x0400_6172
"""Secondary controls, CR8-load exiting, and the bits that must be 1 (SDM Vol. 3D, A.3.2)."""
_CONTROL: Final = {
    Intercept.INVLPG: 1 << 9,
    Intercept.RDTSC: 1 << 12,
    Intercept.CR3: 1 << 16 | 1 << 15,
    Intercept.MSR_BITMAP: 1 << 28,
    Intercept.IO: 1 << 24,
    Intercept.HLT: 1 << 7,
    Intercept.PAUSE: 1 << 30,
}
"""Primary processor-based controls (SDM Vol. 3C, table 25-6)."""
INSTRUCTIONS: Final = (
    ExitReason.CPUID,
    ExitReason.HLT,
    ExitReason.INVLPG,
    ExitReason.RDTSC,
    ExitReason.VMCALL,
    ExitReason.CR_ACCESS,
    ExitReason.RDMSR,
    ExitReason.WRMSR,
    ExitReason.PAUSE,
    ExitReason.RDTSCP,
    ExitReason.INVPCID,
)
"""Exits that an instruction of one length causes."""
QUALIFIED: Final = (ExitReason.INVLPG, ExitReason.CR_ACCESS, ExitReason.IO, ExitReason.EPT_VIOLATION)
"""Exits whose qualification the model has."""
TIMES: Final = (Kind.RDTSC, Kind.RDTSCP)
"""Their results cannot be compared."""


def encode_disk(stub: bytes, cases: Sequence[Case]) -> tuple[bytes, int]:
    """(disk, first sector of the results) for cases."""
    pages = [(pte_of(page), hpa_of(page)) for page in PAGES]
    return encode_batch(stub, IMAGE, pages, [_encode(case) for case in cases], len(cases) * (_RESULT.size + WORDS * 16))


def _encode(case: Case) -> bytes:
    cpl = 3 if case.user else 0
    controls = _CONTROLS
    for intercept, bit in _CONTROL.items():
        controls |= bit if case.intercepts >> intercept & 1 else 0
    everything = case.intercepts >> Intercept.CR0_CR4 & 1
    injected = case.kind is Kind.INJECT
    interruption = VALID | HARDWARE_EXCEPTION | case.argument
    if case.argument in ERROR_CODE_VECTORS:
        interruption |= ERROR_CODE_VALID
    shadow = ~case.rax & U64 if everything else 0
    return _CASE.pack(
        len(case.words),
        controls,
        U64 if everything else 0,
        U64 if everything else CR4_VMXE,
        shadow,
        shadow,
        interruption if injected else 0,
        case.error if injected else 0,
        0 if injected else _MOV_SS_BLOCKING,
        case.cr0,
        case.cr3,
        case.cr4 | CR4_VMXE,
        case.efer,
        case.rflags,
        case.rip,
        case.rsp,
        USER_CS if case.user else KERNEL_CS,
        0xA09B | cpl << 5,
        cpl if case.null_ss else USER_SS if case.user else KERNEL_SS,
        _UNUSABLE | cpl << 5 if case.null_ss else 0xC093 | cpl << 5,
        case.idt,
        case.idt_limit,
        case.tss,
        case.tss_limit,
        case.sysenter_cs,
        case.sysenter_esp,
        case.sysenter_eip,
        case.pat,
        case.fs_base,
        case.gs_base,
        case.star,
        case.lstar,
        case.cstar,
        case.fmask,
        case.kernel_gs_base,
        case.tsc_aux,
        case.cr2,
        case.rax,
        case.rcx,
        case.rdx,
        0,
        case.rdi,
        case.r11,
    ) + encode_pairs(case.words)


def decode_reset_pat(data: bytes) -> int:
    """IA32_PAT after the reset of Bochs, from `data`, the results."""
    return int.from_bytes(data[WORD : 2 * WORD], "little")


def decode_results(data: bytes, cases: Sequence[Case]) -> list[Outcome]:
    """The outcomes of cases from `data`, the results. Raises ReferenceError if one is missing or impossible."""
    results = results_of(data)
    outcomes = []
    at = 0
    for number, case in enumerate(cases):
        words = _RESULT.unpack_from(results, at)
        if words[0] != number + 1:
            raise ReferenceError(f"bochs left no outcome of case {number}: {case}")
        if words[-1] > WORDS:
            raise ReferenceError(f"bochs changed {words[-1]} words in case {number}: {case}")
        at += _RESULT.size
        memory = tuple(_WORD.unpack_from(results, at + 16 * place) for place in range(words[-1]))
        at += 16 * words[-1]
        outcomes.append(_decode(words, memory, case))
    return outcomes


def _decode(words: tuple[int, ...], memory: tuple[tuple[int, int], ...], case: Case) -> Outcome:
    _, refused, rax, rcx, rdx, _rsi, rdi, r11, cr2, cr8 = words[:10]
    reason, qualification, gpa, gva, _, _, vectoring, vectoring_error, length = words[10:19]
    rip, rsp, rflags, cs, _cs_rights, ss, ss_rights, cr0, cr3, cr4, efer = words[19:30]
    if refused:
        raise ReferenceError(f"bochs refused the VM entry with VM-instruction error {refused}: {case}")
    state = State(
        rip, rsp, rflags, cs, ss, ss_rights >> 5 & 3, rax, rcx, rdx, rdi, r11,
        cr0, cr2, cr3, cr4 & ~CR4_VMXE, cr8, efer, *words[30:46],
    )  # fmt: skip
    if is_complete(reason, rip, case):
        if case.kind in TIMES and rip == case.rip + len(case.code):
            state = state._replace(rax=0, rdx=0)
        return Outcome(COMPLETED, state, memory)
    if reason & ENTRY_FAILED:
        return Outcome(reason, NO_STATE, ())
    state = without_shutdown_rf(reason, state)
    event = vectoring & VALID
    return Outcome(
        reason,
        state,
        memory,
        qualification if reason in QUALIFIED else 0,
        gpa if reason in (ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIGURATION) else 0,
        gva if reason == ExitReason.EPT_VIOLATION else 0,
        vectoring if event else 0,
        vectoring_error if event and vectoring & ERROR_CODE_VALID else 0,
        length if reason in INSTRUCTIONS else 0,
    )


def without_shutdown_rf(reason: int, state: State) -> State:
    """The state without RF at a triple fault, where the manual leaves it open (SDM Vol. 3C, 28.3.3)."""
    return state._replace(rflags=state.rflags & ~RFLAGS_RF) if reason == ExitReason.TRIPLE_FAULT else state


def is_complete(reason: int, rip: int, case: Case) -> bool:
    """Whether this is the exit after an instruction. After STI the timer's exit waits, and a VMCALL comes first."""
    if case.kind is Kind.STI and reason == ExitReason.VMCALL:
        return rip == case.rip + len(case.code)
    return reason == PREEMPTION_TIMER
