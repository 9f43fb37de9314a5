"""Rings and exceptions compared with Bochs: quirks explain every difference, and faults of the model are detected."""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.machine.cpu import delivery_accesses, entry_checks, exception_delivery, faults, msrs, vmx_transitions
from hvfuzz.machine.cpu.instructions import control_registers, msr_accesses, port_io, rings
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.references.reference import MAX_DIFFERENCES, ReferenceError, Report
from hvfuzz.references.ring import disk_image
from hvfuzz.references.ring.case import COMPLETED, Case, Kind, Outcome
from hvfuzz.references.ring.cases.entry_cases import entry_cases
from hvfuzz.references.ring.cases.random_cases import boundary_cases, mixed_cases
from hvfuzz.references.ring.comparison import Batch, Comparator, run_in_bochs
from hvfuzz.references.ring.memory_map import IMAGE, PAGES, TABLES_SIZE, Page, hpa_of, page_at, pte_of, word_at
from hvfuzz.references.ring.model import Model
from hvfuzz.references.ring.quirks import ENTRY_RIP, QUIRKS, applicable, merged

pytestmark = pytest.mark.ref_ring


def test_no_unexplained_difference(compare: Callable[..., Report]) -> None:
    report = compare("ring", 8_000, 1)
    assert report.differences == ()
    assert report.cases == 8_000
    assert all(report.quirks[quirk.name] for quirk in QUIRKS if quirk != ENTRY_RIP)


# ------------------------------------------------- faults of the model


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """All cases of VM entry, and some of all others."""
    return [*entry_cases(), *mixed_cases(8_000, 5)]


@pytest.fixture(scope="module")
def batch(cases: list[Case]) -> Batch:
    """What Bochs makes of them."""
    try:
        return run_in_bochs(cases)
    except ReferenceError as missing:
        if os.environ.get("HVFUZZ_REFERENCES") == "required":
            raise
        pytest.skip(str(missing))


def is_caught(cases: list[Case], batch: Batch) -> bool:
    """Whether an outcome of Bochs differs from the one that the model and the quirks predict."""
    comparator = Comparator()
    if comparator.reset_pat != batch.reset_pat:
        return True
    for case, reference in zip(cases, batch.outcomes, strict=True):
        if comparator.expect(case, reference)[0] != reference:
            return True
    return False


Owner = types.ModuleType | type
FAULTS: list[tuple[str, Owner, str, str, str]] = [
    ("IRET with a bad RSP is #GP", rings, "_pop", "refuse(cpu, Vector.SS)", "refuse(cpu, Vector.GP)"),
    ("IRET does not load RF", rings, "iret", "loaded = _POPPED\n", "loaded = _POPPED & ~paging.RFLAGS_RF\n"),
    ("IRET loads IOPL in ring 3", rings, "iret", "loaded &= ~_SYSTEM", "pass"),
    ("IRET pops RFLAGS first", rings, "iret", "    rip, cs,", "    _pop(cpu, regs[RSP] + 16 & U64)\n    rip, cs,"),
    ("IRET takes a null SS in ring 3", rings, "iret", "(ring or ss & INDEX)", "ss & INDEX"),
    (
        "IRET checks RIP first",
        rings,
        "iret",
        "    ring = cs & RPL\n",
        "    ring = cs & RPL\n" + "    is_canonical(rip) or refuse(cpu, Vector.GP)\n",
    ),
    ("there is no I/O bit map", port_io, "_may_access", "allowed = _in_bit_map(cpu, port, size)", "allowed = False"),
    ("one bit of the I/O bit map counts", port_io, "_in_bit_map", "(1 << size) - 1", "1"),
    ("the I/O bit map needs no last byte", port_io, "_in_bit_map", "if place + 1 > limit:", "if place > limit:"),
    ("IOPL is ignored", port_io, "_may_access", "if cpu.cpl <= cpu.regs[RFLAGS] >> IOPL_SHIFT & 3:", "if not cpu.cpl:"),
    ("a gate to ring 3 does not deliver", exception_delivery, "enter_handler", "ring > cpu.cpl", "ring"),
    (
        "the end of the frame is reached first",
        delivery_accesses,
        "push",
        "    for word in words:\n",
        "    _locate(cpu, top - WORD * len(words) & U64, WRITE, user=user)\n    for word in words:\n",
    ),
    ("a frame is pushed for ring 0", delivery_accesses, "push", "user=user)", "user=False)"),
    (
        "the target is checked before the stack",
        exception_delivery,
        "enter_handler",
        "    flags = regs[RFLAGS]\n",
        "    flags = regs[RFLAGS]\n"
        "    if not is_canonical(low | middle << 16 | high << 32):\n"
        "        raise GuestFault(Vector.GP, external)\n",
    ),
    ("SS is kept after a change of ring", exception_delivery, "enter_handler", "cpu.ss = ring", "cpu.ss = 0x18"),
    ("the frame is not aligned", exception_delivery, "enter_handler", "external) & ~15", "external)"),
    ("INT ignores the DPL", exception_delivery, "enter_handler", "software and kind >> 5 & 3 < cpu.cpl", "False"),
    ("absent gates deliver", exception_delivery, "enter_handler", "if not kind & 0x80:", "if False:"),
    ("the limit of the IDT is one less", exception_delivery, "enter_handler", "+ 15 > limit", "+ 16 > limit"),
    ("the TSS has no limit", exception_delivery, "_stack", "if offset + 7 > limit:", "if False:"),
    (
        "an IST counts in ring 3 only",
        exception_delivery,
        "_stack",
        "if not ist and ring == cpu.cpl",
        "if ring == cpu.cpl",
    ),
    ("no error code is EXT", exception_delivery, "enter_handler", "0 if software else _EXTERNAL", "0"),
    ("INT keeps RF", exception_delivery, "interrupt", "cpu.regs[RFLAGS] &= ~paging.RFLAGS_RF", "pass"),
    ("a fault has no RF", exception_delivery, "take", "cpu.regs[RFLAGS] |= paging.RFLAGS_RF", "pass"),
    (
        "VM entry loads CR2",
        exception_delivery,
        "take_injected",
        "cpu.machine.clock.cycles += Cost.EXCEPTION",
        "cpu.cr2 = fault.address",
    ),
    ("a page fault in a page fault is one", faults, "combined", "first == Vector.PF", "False"),
    ("IA32_PAT resets to 0", CpuState, "__init__", "{PAT: PAT_AT_RESET}", "{}"),
    ("there is no CR8", control_registers, "mov_cr", "if n not in _REGISTERS:", "if n not in (0, 2, 3, 4):"),
    ("NW needs no CD", control_registers, "_set_cr0", "if value & paging.CR0_NW", "if False"),
    ("PCIDE is taken with a PCID", control_registers, "_set_cr4", "if value & ~old & paging.CR4_PCIDE", "if False"),
    ("CR3 has no reserved bits", control_registers, "_set_cr3", "if value & (PHYSICAL", "if False and (PHYSICAL"),
    (
        "INVPCID never exits",
        control_registers,
        "invpcid",
        "bool(cpu.vmcs.intercepts >> ExitReason.INVLPG & 1)",
        "False",
    ),
    ("INVPCID takes any PCID", control_registers, "invpcid", "or pcid & ~paging.CR3_PCID", ""),
    ("VM entry takes any RIP", entry_checks, "accepts_rip", "rip >> 48 in (0, _HIGH_RIP)", "True"),
    ("VM entry takes any RFLAGS", entry_checks, "accepts", "not flags & _RFLAGS_ZERO", "True"),
    ("VM entry takes any CR0", entry_checks, "accepts", "cr0 & paging.CR0_FIXED == paging.CR0_FIXED", "True"),
    ("VM entry takes any base", entry_checks, "accepts", "all(is_canonical(base)", "all(True"),
    ("EPT violations save no RF", vmx_transitions, "record_stage_2_exit", "if not vmcs.vectoring:", "if False:"),
    ("SYSCALL keeps RF", rings, "syscall", "& ~paging.RFLAGS_RF", ""),
    ("SYSCALL masks the selector of SS", rings, "syscall", "selectors + 8)", "selectors + 8 & INDEX)"),
    (
        "SYSRET loads RF",
        rings,
        "sysret",
        "regs[R11] & _SYSRET_RFLAGS",
        "regs[R11] & (_SYSRET_RFLAGS | paging.RFLAGS_RF)",
    ),
    ("SYSRET goes anywhere", rings, "sysret", "if cpu.cpl or not is_canonical(regs[RCX])", "if cpu.cpl"),
    ("SYSEXIT takes any stack", rings, "sysexit", "or not is_canonical(regs[RCX])", ""),
    ("CLI ignores IOPL", rings, "_interrupt_flag", "if cpu.cpl >", "if False and cpu.cpl >"),
    (
        "SWAPGS copies",
        rings,
        "swapgs",
        "kept[msrs.GS_BASE], kept[msrs.KERNEL_GS_BASE] = bases",
        "kept[msrs.GS_BASE] = bases[0]",
    ),
    ("MSRs hold any address", msrs, "can_hold", "return is_canonical(value)", "return True"),
    ("FMASK has 64 bits", msrs, "can_hold", "return not value >> 32", "return True"),
    ("the MSR bitmap is for reads", msr_accesses, "_in_bitmap", "bitmap_bit(index, write)", "bitmap_bit(index, False)"),
]
"""(name of the fault, class or module, function, piece of its source, replacement)"""


def break_function(patch: pytest.MonkeyPatch, owner: Owner, name: str, old: str, new: str) -> None:
    """Replace a piece of a function's source, wherever the machine has the function by its name."""
    found = inspect.getattr_static(owner, name)
    source = textwrap.dedent(inspect.getsource(found))
    assert source.count(old) == 1, f"{name} has {old!r} {source.count(old)} times"
    module = owner if isinstance(owner, types.ModuleType) else inspect.getmodule(owner)
    assert module is not None
    namespace: dict[str, Any] = dict(vars(module))
    exec(source.replace(old, new), namespace)
    broken = namespace[name]
    patch.setattr(owner, name, broken)
    users = [other for key, other in sys.modules.items() if key.startswith("hvfuzz.machine.")]
    for user in (*users, VCpu):
        if inspect.getattr_static(user, name, None) is found:
            patch.setattr(user, name, broken)


def test_the_unchanged_model_is_not_caught(cases: list[Case], batch: Batch) -> None:
    assert not is_caught(cases, batch)


@pytest.mark.parametrize(("owner", "name", "old", "new"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_of_the_model_is_caught(
    cases: list[Case],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    owner: Owner,
    name: str,
    old: str,
    new: str,
) -> None:
    break_function(monkeypatch, owner, name, old, new)
    assert is_caught(cases, batch)


def test_a_comparison_stops_at_a_limit(compare: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = next(fault for fault in FAULTS if fault[0] == "a fault has no RF")
    break_function(monkeypatch, *broken[1:])
    report = compare("ring", 2_000, 1)
    assert len(report.differences) == MAX_DIFFERENCES
    assert report.cases == report.differences[-1].number + 1 < 2_000


# ------------------------------------------------- quirks and cases


def test_every_quirk_has_a_name_and_a_section_of_the_manual() -> None:
    assert len({quirk.name for quirk in QUIRKS}) == len(QUIRKS)
    for quirk in QUIRKS:
        assert "(SDM Vol. " in quirk.manual, quirk.name


def test_every_quirk_applies_to_some_cases_and_not_to_others() -> None:
    some = list(mixed_cases(3_000, 2))
    found = [set(applicable(case)) for case in [*boundary_cases(), *some]]
    assert set.union(*found) == set(QUIRKS)
    assert set.intersection(*found) == set()


def test_cases_follow_from_the_seed() -> None:
    drawn = [list(mixed_cases(300, seed)) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_cases_reach_every_instruction_and_exit() -> None:
    model = Model()
    exits = set()
    for case in mixed_cases(6_000, 1):
        outcome = model.run(case)
        exits.add(outcome.exit)
        assert len(outcome.memory) <= disk_image.WORDS
    kinds = {(case.kind, case.user) for case in boundary_cases()}
    assert kinds >= {(kind, user) for kind in Kind for user in (False, True)}
    assert exits == {COMPLETED, 0x8000_0021, 2, 10, 12, 14, 16, 18, 28, 30, 31, 32, 40, 48, 49, 51, 58}


def test_the_text_of_a_case_tells_what_it_changes() -> None:
    text = str(Case("a title", Kind.INT, 0x80, user=True, rsp=0x1238, words=((0x800_0000, 0x123),)))
    assert text == "a title: int argument=0x80 user rsp=0x1238 [0x8000000]=0x123"


def test_a_page_is_reached_by_every_slot() -> None:
    assert [page_at(gva) for gva in (0, 0xFFFF_8000_0000_0000, 0x7FFF_FFFF_FFFF, (1 << 64) - 1)] == [
        Page.LOW,
        Page.LOW,
        Page.TOP,
        Page.TOP,
    ]
    assert [page_at(gva) for gva in (1 << 47, 1 << 30, 0x20_0000, 0xE000, 1 << 39)] == [None] * 5


def test_memory_of_two_events_is_in_the_order_of_pages() -> None:
    stack, entry = hpa_of(Page.IST), pte_of(Page.IST)
    assert merged(((stack + 8, 1), (entry, 2)), ((stack, 3), (stack + 8, 4))) == (
        (stack, 3),
        (stack + 8, 4),
        (entry, 2),
    )


# ------------------------------------------------- results


@pytest.fixture
def written() -> tuple[bytearray, list[Case]]:
    """The results of two cases, as the stub writes them, and the cases: the first changed a word."""
    questions = [Case("first", Kind.PAUSE), Case("second", Kind.PAUSE)]
    disk, first = disk_image.encode_disk(b"stub", questions)
    data = bytearray(disk[first * 512 :])
    data[:16] = bytes(8) + (0x77).to_bytes(8, "little")
    put(data, 0, 1)
    put(data, 10, disk_image.PREEMPTION_TIMER)
    put(data, 46, 1)
    put(data, 47, 0x801_0000)
    put(data, 48, 0x99)
    put(data, 49, 2)
    put(data, 59, disk_image.PREEMPTION_TIMER)
    return data, questions


def put(data: bytearray, word: int, value: int) -> None:
    """Write a word of the results."""
    data[512 + 8 * word : 520 + 8 * word] = value.to_bytes(8, "little")


Written = tuple[bytearray, list[Case]]


def test_results_are_read(written: Written) -> None:
    first, second = disk_image.decode_results(*written)
    assert (first.exit, first.memory, second.memory) == (COMPLETED, ((0x801_0000, 0x99),), ())
    assert disk_image.decode_reset_pat(written[0]) == 0x77


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (49, 7, "bochs left no outcome of case 1: second: pause"),
        (46, 30, "bochs changed 30 words in case 0: first: pause"),
        (1, 8, "bochs refused the VM entry with VM-instruction error 8: first: pause"),
    ],
)
def test_an_impossible_result_gives_an_error_of_one_line(written: Written, word: int, value: int, message: str) -> None:
    put(written[0], word, value)
    with pytest.raises(ReferenceError, match=message):
        disk_image.decode_results(*written)


def test_the_image_is_that_of_the_stub() -> None:
    assert len(IMAGE) == TABLES_SIZE == 0x1_0000 + 4096 * len(PAGES)
    assert word_at(pte_of(Page.LOW)) & 1
    assert isinstance(Model().run(Case("plain", Kind.PAUSE)), Outcome)
