"""Known deviations of Bochs from the manual, and the exact outcome that each of them leads to.

No part of an outcome is exempt from comparison: what a quirk turns the manual's outcome into is computed and compared.
Whether a quirk applies follows from the case alone. Where it replaces a value, the model must have the manual's.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, WORD, is_canonical
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.entry_checks import accepts_rip
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.processor_state import USER
from hvfuzz.machine.cpu.segments import INDEX, KERNEL_SS, RPL, USER_SS
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import paging
from hvfuzz.references.reference import Quirk
from hvfuzz.references.ring.case import COMPLETED, Case, Kind, Outcome, State
from hvfuzz.references.ring.disk_image import ENTRY_FAILED
from hvfuzz.references.ring.memory_map import (
    HIGH,
    IST1,
    RSP0,
    Page,
    ept_of,
    gate_of,
    hpa_of,
    page_at,
    pte_of,
    word_at,
)
from hvfuzz.references.ring.model import MANUAL_ORDER, Model

SYSCALL_SS: Final = Quirk(
    "syscall-ss",
    "SYSCALL clears the RPL of the selector that it loads into SS",
    "SS.Selector is IA32_STAR[47:32] + 8; only that of CS is masked with FFFCH (SDM Vol. 2B, SYSCALL)",
)
SYSRET_RF: Final = Quirk(
    "sysret-rf",
    "SYSRET loads RF from R11",
    "RFLAGS is (R11 & 3C7FD7H) | 2, without RF (SDM Vol. 2B, SYSRET)",
)
IRET_ORDER: Final = Quirk(
    "iret-order",
    "IRET reads RFLAGS, CS and RIP in this order, then SS and RSP; so another word of a frame faults first",
    "RIP, CS, RFLAGS, RSP and SS are popped in this order (SDM Vol. 2A, IRET)",
)
LATE_TARGET: Final = Quirk(
    "late-target",
    "the frame is pushed before the handler's address is found not to be canonical",
    "this #GP comes after the check of the stack and before the first push (SDM Vol. 2A, INT n)",
)
STACK_SELECTOR: Final = Quirk(
    "stack-selector",
    "the #SS of a stack in the TSS that is not canonical has the selector of the old SS in its error code",
    "the new stack's selector is null (SDM Vol. 2A, INT n; Vol. 3A, 6.14.4)",
)
EXIT_RF: Final = Quirk(
    "exit-rf",
    "an EPT violation of an instruction's own access saves RF clear",
    "an EPT violation or misconfiguration without an event being delivered saves RF set (SDM Vol. 3C, 28.3.3)",
)
RESERVED_MSR_BITS: Final = Quirk(
    "reserved-msr-bits",
    "WRMSR ignores bits 63..32 of IA32_FMASK and IA32_TSC_AUX",
    "these bits are reserved, and a write that sets reserved bits is #GP(0) (SDM Vol. 4, table 2-2; Vol. 2B, WRMSR)",
)
ENTRY_RIP: Final = Quirk(
    "entry-rip",
    "VM entry does not check RIP; the fetch that follows is #GP(0)",
    "bits 63..48 of RIP must be identical, or VM entry fails with exit reason 33 (SDM Vol. 3C, 27.3.1.4)",
)
IMPLICIT_AC: Final = Quirk(
    "implicit-ac",
    "RFLAGS.AC lifts SMAP for reads of the IDT and the TSS",
    "these are implicit supervisor-mode accesses, to which SMAP applies whatever AC is (SDM Vol. 3A, 4.6.1)",
)
NOT_THE_MANUALS: Final = -1
"""`Outcome.exit` where the model departs from the manual as Bochs does."""
QUIRKS: Final = (
    SYSCALL_SS,
    SYSRET_RF,
    IRET_ORDER,
    LATE_TARGET,
    STACK_SELECTOR,
    EXIT_RF,
    RESERVED_MSR_BITS,
    ENTRY_RIP,
    IMPLICIT_AC,
)

_BOCHS_ORDER: Final = (2, 1, 0, 4, 3)
_TARGET: Final = HIGH + 0x20_0000
"""A handler's address that no case has."""
_ENTERED_RIP: Final = 1 << 47
"""An address that VM entry takes, and where no instruction can be fetched."""
_UNUSED_HALF: Final = (msrs.FMASK, msrs.TSC_AUX)
_EPT_EXITS: Final = (ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIGURATION)


def word_of(case: Case, hpa: int) -> int:
    """A word of memory at the start of a case."""
    return dict(case.words).get(hpa, word_at(hpa))


def _bytes_of(case: Case, hpa: int) -> int:
    """Eight bytes at an hpa that is not aligned."""
    low, shift = hpa & ~7, 8 * (hpa & 7)
    return (word_of(case, low) | word_of(case, low + WORD) << 64) >> shift & (1 << 64) - 1


def _changed_gates(case: Case) -> set[int]:
    """Vectors whose gates the case changes."""
    return {(hpa - gate_of(0)) >> 4 for hpa, _ in case.words if gate_of(0) <= hpa < gate_of(256)}


def _target_of(case: Case, vector: int) -> int:
    """The handler that a gate in its usual place names."""
    first, second = word_of(case, gate_of(vector)), word_of(case, gate_of(vector) + WORD)
    return first & 0xFFFF | first >> 48 << 16 | (second & 0xFFFF_FFFF) << 32


def _bad_targets(case: Case) -> list[int]:
    """Vectors whose gates, in their usual place, have a target that is not canonical."""
    return [vector for vector in _changed_gates(case) if not is_canonical(_target_of(case, vector))]


def _bad_stacks(case: Case) -> bool:
    """Whether a stack in the TSS is not canonical that a gate in its usual place uses."""
    tss = hpa_of(Page.TSS) + (case.tss & PAGE_MASK)
    used = {word_of(case, gate_of(vector)) >> 32 & 7 for vector in _changed_gates(case)}
    offsets = {IST1 + WORD * (number - 1) for number in used - {0}} | ({RSP0} if case.user else set())
    return any(not is_canonical(_bytes_of(case, tss + offset)) for offset in offsets)


_APPLIES: Final[MappingProxyType[Quirk, Callable[[Case], bool]]] = MappingProxyType(
    {
        SYSCALL_SS: lambda case: case.kind is Kind.SYSCALL and bool(case.star >> 32 & RPL),
        SYSRET_RF: lambda case: case.kind is Kind.SYSRET and bool(case.r11 & paging.RFLAGS_RF),
        IRET_ORDER: lambda case: case.kind is Kind.IRET,
        LATE_TARGET: lambda case: bool(_bad_targets(case)),
        STACK_SELECTOR: _bad_stacks,
        EXIT_RF: lambda case: any(ept_of(page) == hpa for hpa, _ in case.words for page in Page),
        RESERVED_MSR_BITS: lambda case: case.kind is Kind.WRMSR and case.rcx in _UNUSED_HALF and case.rdx > 0,
        ENTRY_RIP: lambda case: not accepts_rip(case.rip),
        IMPLICIT_AC: lambda case: bool(
            case.cr4 & paging.CR4_SMAP
            and case.rflags & paging.RFLAGS_AC
            and any(word_of(case, pte_of(page)) & paging.US for page in (Page.IDT, Page.TSS, Page.TSS_1))
        ),
    }
)


def applicable(case: Case) -> list[Quirk]:
    """The quirks that may change the outcome of a case."""
    return [quirk for quirk in QUIRKS if _APPLIES[quirk](case)]


def with_quirks(model: Model, case: Case, ours: Outcome, quirks: frozenset[Quirk]) -> Outcome:
    """What Bochs makes of `case` with these quirks, if the manual's outcome is `ours`."""
    if _departs(model, case, ours, quirks):
        return ours._replace(exit=NOT_THE_MANUALS)
    variant = case
    if IMPLICIT_AC in quirks:
        variant = variant._replace(cr4=variant.cr4 & ~paging.CR4_SMAP)
    if ENTRY_RIP in quirks:
        variant = variant._replace(rip=_ENTERED_RIP)
    if RESERVED_MSR_BITS in quirks:
        variant = variant._replace(rdx=0)
    order = _BOCHS_ORDER if IRET_ORDER in quirks else None
    outcome = ours if variant == case and order is None else model.run(variant, order)
    if LATE_TARGET in quirks:
        outcome = _after_pushes(model, variant, outcome, order)
    state = outcome.state
    if variant.cr4 != case.cr4 and state.cr4 == variant.cr4:
        outcome = outcome._replace(state=state._replace(cr4=case.cr4))
    if variant.rdx != case.rdx:
        outcome = outcome._replace(state=outcome.state._replace(rdx=case.rdx))
    if variant.rip != case.rip:
        outcome = outcome._replace(
            memory=tuple((hpa, case.rip if value == _ENTERED_RIP else value) for hpa, value in outcome.memory)
        )
    if SYSCALL_SS in quirks and _completed_call(case, state):
        outcome = outcome._replace(state=outcome.state._replace(ss=state.ss & INDEX))
    if SYSRET_RF in quirks and _completed_call(case, state):
        outcome = outcome._replace(state=outcome.state._replace(rflags=state.rflags | paging.RFLAGS_RF))
    if STACK_SELECTOR in quirks:
        outcome = _with_selector(case, outcome)
    if EXIT_RF in quirks and outcome.exit in _EPT_EXITS and not outcome.vectoring:
        outcome = outcome._replace(state=outcome.state._replace(rflags=outcome.state.rflags & ~paging.RFLAGS_RF))
    return outcome


def _departs(model: Model, case: Case, ours: Outcome, quirks: frozenset[Quirk]) -> bool:
    """Whether `ours` is not the manual's outcome where one of the quirks would hide it."""
    state = ours.state
    entered = _completed_call(case, state) and ours.exit == COMPLETED
    return (
        (ENTRY_RIP in quirks and ours.exit != ExitReason.INVALID_GUEST_STATE | ENTRY_FAILED)
        or (RESERVED_MSR_BITS in quirks and (state.fmask, state.tsc_aux) != (case.fmask, case.tsc_aux))
        or (SYSCALL_SS in quirks and entered and state.ss != (case.star >> 32) + WORD & 0xFFFF)
        or (SYSRET_RF in quirks and entered and bool(state.rflags & paging.RFLAGS_RF))
        or (
            EXIT_RF in quirks and ours.exit in _EPT_EXITS and not ours.vectoring and not state.rflags & paging.RFLAGS_RF
        )
        or (IRET_ORDER in quirks and model.run(case, MANUAL_ORDER) != ours)
        or (STACK_SELECTOR in quirks and _stack_error(case, ours) > 1)
    )


def _completed_call(case: Case, state: State) -> bool:
    """Whether the state is that after a SYSCALL or SYSRET that went through."""
    if case.kind is Kind.SYSCALL:
        return state.rip == case.lstar and state.r11 == case.rflags & ~paging.RFLAGS_RF
    return case.kind is Kind.SYSRET and state.rip == case.rcx and state.cpl == USER


def _after_pushes(model: Model, case: Case, outcome: Outcome, order: tuple[int, ...] | None) -> Outcome:
    """The outcome with the frame of the first event pushed before its target is checked."""
    words = dict(case.words)
    for vector in _bad_targets(case):
        first, second = word_of(case, gate_of(vector)), word_of(case, gate_of(vector) + WORD)
        words[gate_of(vector)] = first & 0xFFFF_FFFF_0000 | _TARGET & 0xFFFF | (_TARGET >> 16 & 0xFFFF) << 48
        words[gate_of(vector) + WORD] = second & ~0xFFFF_FFFF | _TARGET >> 32
    pushed = model.run(case._replace(words=tuple(sorted(words.items()))), order)
    checked = [_target_of(case, Vector.TS), *([_target_of(case, Vector.SS)] if _bad_stacks(case) else [])]
    if pushed.exit == COMPLETED and pushed.state.rip in checked:
        return outcome  # The stack is checked first by Bochs and by the manual.
    if pushed.exit != COMPLETED or pushed.state.rip != _TARGET:
        return pushed
    return outcome._replace(memory=merged(pushed.memory, outcome.memory))


def merged(first: tuple[tuple[int, int], ...], second: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """`Outcome.memory` of two events, the second of which overwrites the first."""
    words = dict(first) | dict(second)
    return tuple(sorted(words.items(), key=_place))


def _place(word: tuple[int, int]) -> tuple[int, bool, int]:
    """Sorts words as in `Outcome.memory`: page by page, and its entry after it."""
    hpa = word[0]
    for number, page in enumerate(Page):
        if hpa == pte_of(page):
            return number, True, hpa
        if hpa_of(page) <= hpa < hpa_of(page) + PAGE_MASK:
            return number, False, hpa
    raise AssertionError(f"{hpa:#x} is in no page")


def _stack_error(case: Case, outcome: Outcome) -> int:
    """The error code of the #SS that is being delivered or was delivered last; 0 if there is none."""
    if outcome.vectoring & 0xFF == Vector.SS:
        return outcome.vectoring_error
    at = _stack_error_at(case, outcome)
    return dict(outcome.memory).get(at, 0) if at else 0


def _stack_error_at(case: Case, outcome: Outcome) -> int:
    """Hpa of the error code of a delivered #SS, or 0."""
    state = outcome.state
    page = page_at(state.rsp)
    if outcome.exit != COMPLETED or state.rip != _target_of(case, Vector.SS) or page is None:
        return 0
    return hpa_of(page) | state.rsp & PAGE_MASK


def _with_selector(case: Case, outcome: Outcome) -> Outcome:
    """The outcome with the selector of SS in the error code of a #SS."""
    selector = 0 if case.null_ss else (USER_SS if case.user else KERNEL_SS) & INDEX
    if outcome.vectoring & 0xFF == Vector.SS:
        return outcome._replace(vectoring_error=outcome.vectoring_error | selector)
    at = _stack_error_at(case, outcome)
    return outcome._replace(
        memory=tuple((hpa, value | selector if hpa == at else value) for hpa, value in outcome.memory)
    )
