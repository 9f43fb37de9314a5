"""EPT compared with Bochs: quirks explain every difference, faults of the model are detected, Bochs leaves no files."""

from __future__ import annotations

import inspect
import os
import textwrap
import types
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.machine.cpu import delivery_accesses, exception_delivery, vmx_transitions
from hvfuzz.machine.cpu.instructions import exiting, load_store
from hvfuzz.machine.mmu import ept, ept_walk, paging
from hvfuzz.machine.mmu.ept_walk import STAGE_1, SecondStage
from hvfuzz.machine.mmu.stage1 import Mmu
from hvfuzz.references.bochs.disk import MEMORY, REGION, SECTOR, UNWRITTEN
from hvfuzz.references.ept import disk_image
from hvfuzz.references.ept.case import Case, Kind, Stop
from hvfuzz.references.ept.cases.boundary_cases import boundary_cases
from hvfuzz.references.ept.cases.case_builder import EPT_TABLES_BIT
from hvfuzz.references.ept.cases.random_cases import mixed_cases
from hvfuzz.references.ept.comparison import BochsAnswer, Comparator, run_in_bochs
from hvfuzz.references.ept.memory_map import NAMES, REGION_SIZE, WATCHED, tables
from hvfuzz.references.ept.model import Model
from hvfuzz.references.ept.quirks import QUIRKS
from hvfuzz.references.reference import MAX_DIFFERENCES, ReferenceError, Report


@pytest.mark.ref_ept
def test_no_unexplained_difference(compare: Callable[..., Report]) -> None:
    report = compare("ept", 20_000, 1)
    assert report.differences == ()
    assert report.cases == 20_000
    assert report.quirks.keys() == {quirk.name for quirk in QUIRKS}
    assert min(report.quirks.values()) > 0, "a quirk that changes no verdict must go"


# ------------------------------------------------- faults of the model


@pytest.fixture(scope="module")
def answers() -> list[BochsAnswer]:
    """The outcomes of 4,000 cases in Bochs."""
    try:
        return run_in_bochs(list(mixed_cases(4_000, 5)))
    except ReferenceError as missing:
        if os.environ.get("HVFUZZ_REFERENCES") == "required":
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def comparator(answers: list[BochsAnswer]) -> Comparator:
    return Comparator()


def is_caught(comparator: Comparator, answers: list[BochsAnswer]) -> bool:
    """Whether an outcome of the model differs from the manual's, or one of Bochs from what its quirks make of it."""
    return any(comparator.judge(answer).differs for answer in answers)


Owner = types.ModuleType | type
FAULTS: list[tuple[str, Owner, str, str, str]] = [
    (
        "write and execute without read is well-formed",
        SecondStage,
        "_walk_ept",
        "entry & 3 == WRITE",
        "entry & 7 == WRITE",
    ),
    ("any memory type is well-formed", SecondStage, "_walk_ept", "ept.VALID_MEMORY_TYPES >>", "0xFF >>"),
    ("only the leaf's rights count", SecondStage, "_walk_ept", "rights &= entry\n", "rights = entry & 7\n"),
    ("any right will do", SecondStage, "_walk_ept", "if rights & access != access:", "if not rights & access:"),
    ("reserved bits of leaves are ignored", SecondStage, "_walk_ept", "reserved_leaf if leaf else", "0 if leaf else"),
    ("reserved bits of tables are ignored", SecondStage, "_walk_ept", "else reserved_table):", "else 0):"),
    (
        "large pages lose the low part of the address",
        SecondStage,
        "_walk_ept",
        "| (gpa & ((1 << shift) - 1) &",
        "| (gpa & 0 &",
    ),
    ("leaves at level 3 are tables", SecondStage, "_walk_ept", "reserved_leaf != -1 and", "level == 2 and"),
    ("tables get no accessed flag", SecondStage, "_walk_ept", "used.append(address)", "pass"),
    ("reads set the dirty flag", SecondStage, "_walk_ept", "ept.DIRTY if access & WRITE", "ept.DIRTY if access"),
    ("writes after a read set no dirty flag", SecondStage, "_walk_ept", "if not wanted & ept.DIRTY:", "if False:"),
    ("flags are set though they are off", SecondStage, "_walk_ept", "eptp & ept.EPTP_ACCESSED_DIRTY", "True"),
    ("references to guest tables are reads", SecondStage, "resolve_gpa", "if walking and", "if False and"),
    ("a hit allows all", SecondStage, "resolve_gpa", "entry[1] & access == access", "True"),
    (
        "a cached EPT table gives all rights",
        SecondStage,
        "_walk_ept",
        "rights, level = start",
        "_, level = start\n        rights = 7",
    ),
    (
        "a cached EPT table is one of a level too low",
        SecondStage,
        "_walk_ept",
        "_BELOW[level]",
        "_BELOW[max(level - 1, 2)]",
    ),
    (
        "a cached table of the guest's gives all rights",
        Mmu,
        "_walk",
        "_, every, some_nx, level = start",
        "_, _, some_nx, level = start\n        every = 6",
    ),
    ("the rights are not reported", ept_walk, "_qualify", "| rights << 3", ""),
    ("the access is not reported", ept_walk, "_qualify", "access & (READ | WRITE | EXEC) |", ""),
    ("the linear address is never valid", ept_walk, "_qualify", "if gva is not None:", "if False:"),
    ("references to guest tables are not told from pages", ept_walk, "_qualify", "if not walking:", "if True:"),
    ("guest tables get no accessed flag", Mmu, "_walk", "if not entry & paging.A:", "if False:"),
    ("guest reads set the dirty flag", Mmu, "_walk", "paging.D if access & WRITE", "paging.D if access"),
    ("references to guest tables are accesses to pages", Mmu, "_walk", "READ, gva, True)", "READ, gva, False)"),
    ("XD counts in the leaf only", Mmu, "_walk", "some_nx |= entry", "some_nx = entry"),
    ("CR0.WP is ignored", Mmu, "_walk", "(user or vcpu.cr0 & paging.CR0_WP)", "user"),
    ("guest flags are set where stage 2 forbids it", Mmu, "_set_flags", "WRITE, gva, True", "READ, gva, True"),
    ("guest flags that are set are written", Mmu, "_walk", "if wanted != entry:", "if True:"),
    (
        "a flag is refused where the access is a page fault",
        Mmu,
        "_walk",
        "user_page = bool(every & paging.US)",
        "user_page = [entry & paging.A or self._set_flags(eptp, entry_gpa, gva, entry, entry)] and every & paging.US",
    ),
    (
        "bit 12 of a large EPT leaf is ignored",
        SecondStage,
        "_walk_ept",
        "entry & (reserved_leaf if leaf else reserved_table)",
        "entry & (reserved_leaf & ~0x1000 if leaf else reserved_table)",
    ),
    ("references to guest tables are writes only", SecondStage, "resolve_gpa", "access |= WRITE ", "access = WRITE "),
    ("the fetch bit depends on NXE alone", Mmu, "_page_fault", "or vcpu.cr4 & paging.CR4_SMEP", ""),
    ("SMAP holds in spite of AC", Mmu, "_supervisor_denied", "not vcpu.regs[RFLAGS] & paging.RFLAGS_AC", "True"),
    (
        "a violation reports the operand, not the page",
        vmx_transitions,
        "record_stage_2_exit",
        "else violation.gva",
        "else gva",
    ),
    ("any walk length enters", ept, "is_valid_eptp", "(ADDRESS |", "(ADDRESS | 0x38 |"),
    ("VM entry takes any EPTP", vmx_transitions, "exit_and_enter", "not is_valid_eptp(cpu.eptp)", "False"),
]
"""(name of the fault, class or module, function, piece of its source, replacement)"""


def break_function(patch: pytest.MonkeyPatch, owner: Owner, name: str, old: str, new: str) -> None:
    """Replace a piece of a function's source."""
    found = inspect.getattr_static(owner, name)
    function = found.__func__ if isinstance(found, staticmethod) else found
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{name} has {old!r} {source.count(old)} times"
    module = owner if isinstance(owner, types.ModuleType) else inspect.getmodule(owner)
    assert module is not None
    namespace: dict[str, Any] = dict(vars(module))
    exec(source.replace(old, new), namespace)
    broken = namespace[name]
    patch.setattr(owner, name, staticmethod(broken) if isinstance(found, staticmethod) else broken)
    for importer in (vmx_transitions, exception_delivery, exiting, load_store, delivery_accesses):
        if getattr(importer, name, None) is found:
            patch.setattr(importer, name, broken)


@pytest.mark.ref_ept
def test_the_unchanged_model_is_not_caught(comparator: Comparator, answers: list[BochsAnswer]) -> None:
    assert not is_caught(comparator, answers)


@pytest.mark.ref_ept
@pytest.mark.parametrize(("owner", "name", "old", "new"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_of_the_model_is_caught(
    comparator: Comparator,
    answers: list[BochsAnswer],
    monkeypatch: pytest.MonkeyPatch,
    owner: Owner,
    name: str,
    old: str,
    new: str,
) -> None:
    break_function(monkeypatch, owner, name, old, new)
    assert is_caught(comparator, answers)


# ------------------------------------------------- quirks


def test_every_quirk_has_a_name_and_a_section_of_the_manual() -> None:
    assert len({quirk.name for quirk in QUIRKS}) == len(QUIRKS)
    for quirk in QUIRKS:
        assert "(SDM Vol. 3" in quirk.manual, quirk.name


# ------------------------------------------------- cases


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tables(b""))


@pytest.mark.parametrize("source", ["boundary", "random"])
def test_cases_stay_within_the_region_or_outside_memory(model: Model, source: str) -> None:
    """Otherwise a guest could reach the stub, or words unknown to the model."""
    cases = boundary_cases() if source == "boundary" else mixed_cases(6_000, 11)
    region = range(REGION, REGION + REGION_SIZE)
    mmu = model.machine.mmu
    for case in cases:
        mmu.record = []
        model.run(case)
        reached = [table for _, _, table, _, _ in mmu.record] + model.guest.touched
        assert all(hpa in region or hpa >= MEMORY for hpa in reached), str(case)
        for stage, _, table, _, entry in mmu.record:
            is_over_ept = stage == STAGE_1 and table < REGION + (1 << EPT_TABLES_BIT)
            assert not (is_over_ept and entry & paging.P), f"guest flags would go to EPT tables: {case}"
        assert len(model.guest.stored) <= disk_image.STORED
    mmu.record = None


def test_cases_follow_from_the_seed() -> None:
    cases = [list(mixed_cases(300, seed)) for seed in (7, 7, 8)]
    assert cases[0] == cases[1] != cases[2]


def test_cases_reach_every_stop(model: Model) -> None:
    """Each stop, for each access and CPL; and each bit of the exit qualification, set and clear."""
    ends = set()
    bits = [0, 0]
    for case in mixed_cases(3_000, 1):
        outcome = model.run(case)
        ends.add((case.kind, outcome.stop, case.user and case.kind is not Kind.PDPTES))
        if outcome.stop is Stop.EPT_VIOLATION:
            bits[0] |= outcome.qualification
            bits[1] |= ~outcome.qualification
    every = {(kind, stop, user) for kind in Kind for stop in Stop for user in (False, True)}
    missing = every - ends
    assert {case for case in missing if case[0] is not Kind.PDPTES and case[1] is not Stop.ENTRY_FAILURE} == set()
    assert bits[0] & 0x1BF == bits[1] & 0x1BF == 0x1BF


def test_the_text_of_a_case() -> None:
    case = Case("a title", Kind.STORE, user=True, entries=((WATCHED[0], 0x123),))
    text = str(case)
    assert text.startswith("a title: store at 0x")
    assert "cpl 3" in text
    assert text.endswith(f"{NAMES[WATCHED[0]]}=0x123")


# ------------------------------------------------- results


@pytest.fixture
def written() -> tuple[bytearray, list[tuple[Case, tuple[int, ...]]]]:
    """The results of two cases, as the stub writes them, and the cases."""
    questions = [(Case("first", Kind.LOAD), ()), (Case("second", Kind.STORE), (REGION,))]
    disk, results = disk_image.encode_disk(b"stub", tables(b""), questions)
    data = bytearray(disk[results * SECTOR :])
    assert data[:8] == UNWRITTEN
    data[:8] = bytes(8)
    for number in (0, 1):
        put(data, number, 0, number + 1)
        put(data, number, 2, Stop.VMCALL)
        put(data, number, 8, 0x77)
        put(data, number, 11, 0x99)
    return data, questions


def put(data: bytearray, case: int, word: int, value: int) -> None:
    """Write a word of a result."""
    at = SECTOR + (case * (11 + len(WATCHED)) + word) * 8
    data[at : at + 8] = value.to_bytes(8, "little")


Written = tuple[bytearray, list[tuple[Case, tuple[int, ...]]]]


def test_results_are_read(written: Written) -> None:
    first, second = disk_image.decode_results(*written)
    assert (first.stop, first.rax, first.memory[0], len(first.memory)) == (Stop.VMCALL, 0x77, 0x99, len(WATCHED))
    assert len(second.memory) == len(WATCHED) + 1


def test_fields_that_the_manual_leaves_undefined_are_zero(written: Written) -> None:
    data, questions = written
    for word, value in ((3, 0x81), (4, 0x1234), (5, 0x5678), (6, 0x80000B0E), (7, 5)):
        put(data, 0, word, value)
        put(data, 1, word, value & ~0x80 & ~0x800)
    ends = {}
    for stop in (Stop.VMCALL, Stop.EXCEPTION, Stop.EPT_VIOLATION, Stop.EPT_MISCONFIGURATION):
        put(data, 0, 2, stop)
        put(data, 1, 2, stop)
        ends[stop] = [outcome[3:] for outcome in disk_image.decode_results(data, questions)]
    assert ends == {
        Stop.VMCALL: [(0, 0, 0, 0, 0, 0)] * 2,
        Stop.EXCEPTION: [(14, 5, 0x81, 0, 0, 0), (14, 0, 1, 0, 0, 0)],
        Stop.EPT_VIOLATION: [(0, 0, 0, 0x81, 0x1234, 0x5678), (0, 0, 0, 1, 0x1234, 0)],
        Stop.EPT_MISCONFIGURATION: [(0, 0, 0, 0, 0x1234, 0)] * 2,
    }


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (0, 1, "bochs left no outcome of case 1: second: store"),
        (2, 0x80000021, "bochs reported an impossible exit reason 0x80000021: second"),
        (2, 2, "bochs reported an impossible exit reason 0x2: second"),
    ],
)
def test_an_impossible_result_gives_an_error_of_one_line(written: Written, word: int, value: int, message: str) -> None:
    put(written[0], 1, word, value)
    with pytest.raises(ReferenceError, match=message):
        disk_image.decode_results(*written)


def test_a_stub_that_fails_says_at_which_step(written: Written) -> None:
    written[0][:8] = (3).to_bytes(8, "little")
    with pytest.raises(ReferenceError, match="step 3"):
        disk_image.decode_results(*written)


def test_a_case_stores_to_few_words() -> None:
    with pytest.raises(ValueError, match="stores to 3 words"):
        disk_image.encode_disk(b"stub", tables(b""), [(Case("plain", Kind.STORE), (REGION, REGION + 8, REGION + 16))])


@pytest.mark.ref_ept
def test_a_comparison_stops_at_a_limit(compare: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = next(fault for fault in FAULTS if fault[0] == "the rights are not reported")
    break_function(monkeypatch, *broken[1:])
    report = compare("ept", 2_000, 1)
    assert len(report.differences) == MAX_DIFFERENCES
    assert report.cases == report.differences[-1].number + 1 < 2_000
    for difference in report.differences:
        assert "qualification=" in difference.model != difference.reference
