"""Stage 1 compared with Unicorn: quirks explain every difference, and each planted fault below is detected."""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hvfuzz.references.all_references import load_reference
from hvfuzz.references.reference import ReferenceError, Report
from hvfuzz.references.stage1.random_cases import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

pytestmark = pytest.mark.ref_stage1
CASES = 2500
CASES_FOR_A_FAULT = 2000
"""Number of cases within which a fault of the model must be detected."""


class Fault(NamedTuple):
    """A fault in a module of hvfuzz.machine: a piece of its source, and the wrong replacement."""

    name: str
    module: str
    line: str
    wrong: str


FAULTS = (
    # Bits that are checked.
    Fault("present", "mmu.stage1", "if not entry & paging.P:", "if not entry & (paging.P | paging.RW):"),
    Fault("the PML4E may have PS", "mmu.paging", "PHYSICAL_RESERVED | PS", "PHYSICAL_RESERVED"),
    Fault("bit 13 of a 1 GiB leaf", "mmu.paging", "((1 << 30) - (1 << 13))", "((1 << 30) - (1 << 14))"),
    Fault("bit 12 of a 2 MiB leaf is PAT", "mmu.paging", "((1 << 21) - (1 << 13))", "((1 << 21) - (1 << 12))"),
    Fault("bit 51", "addresses", "((1 << 52) - 1) & ~((1 << MAXPHYADDR)", "((1 << 51) - 1) & ~((1 << MAXPHYADDR)"),
    Fault(
        "bit 39 of an address",
        "addresses",
        "FRAME_ADDRESS: Final = ((1 << MAXPHYADDR)",
        "FRAME_ADDRESS: Final = ((1 << 39)",
    ),
    Fault("NX without NXE", "mmu.stage1", "no_nx = 0 if vcpu.efer & paging.EFER_NXE else paging.NX", "no_nx = 0"),
    Fault("ordinary entries may have NX", "mmu.stage1", "paging.PS | paging.NX | _ORDINARY", "paging.PS | _ORDINARY"),
    # Rights that are required.
    Fault("WP", "mmu.stage1", "not writable and (user or vcpu.cr0 & paging.CR0_WP)", "not writable and user"),
    Fault("upper NX", "mmu.stage1", "some_nx |= entry & paging.NX", "some_nx = entry & paging.NX"),
    Fault(
        "upper rights",
        "mmu.stage1",
        "            every &= entry\n            some",
        "            every = entry\n            some",
    ),
    Fault("SMAP for fetches", "mmu.stage1", "if access & EXEC:", "if False:"),
    Fault("AC", "mmu.stage1", " and not vcpu.regs[RFLAGS] & paging.RFLAGS_AC", ""),
    Fault("user bit", "mmu.stage1", "(not user_page if user else user_page and", "(user_page and"),
    # Contents of a fault.
    Fault(
        "error code I",
        "mmu.stage1",
        "(vcpu.efer & paging.EFER_NXE or vcpu.cr4 & paging.CR4_SMEP)",
        "vcpu.efer & paging.EFER_NXE",
    ),
    Fault("error code RSVD", "mmu.stage1", "user, _CODE_P | _CODE_RSVD)", "user, _CODE_RSVD)"),
    Fault(
        "error code U",
        "mmu.stage1",
        "        if user:\n            code |=",
        "        if user and not code:\n            code |=",
    ),
    Fault(
        "CR2 is the page",
        "mmu.stage1",
        "raise GuestFault(_PF, code, gva)",
        "raise GuestFault(_PF, code, gva & ~PAGE_MASK)",
    ),
    Fault("CR2 of #GP", "cpu.exception_delivery", "if fault.vector == Vector.PF:", "if True:"),
    Fault("canonical", "addresses", "top = address >> 47", "top = address >> 48 << 1 | address >> 48 & 1"),
    # Accessed and dirty flags.
    Fault("accessed in tables", "mmu.stage1", "if not entry & paging.A:", "if not entry & (paging.A | paging.US):"),
    Fault("dirty by reads", "mmu.stage1", "(paging.D if access & WRITE else 0)", "paging.D"),
    Fault(
        "dirty before rights",
        "mmu.stage1",
        "            if not entry & paging.A:\n",
        "            if not entry & paging.D:\n",
    ),
    Fault(
        "flags of the leaf", "mmu.stage1", "        if wanted != entry:", "        if wanted != entry and level == 1:"
    ),
    Fault(
        "flags of a 1 GiB page",
        "mmu.stage1",
        "        if wanted != entry:",
        "        if wanted != entry and level < 3:",
    ),
    Fault(
        "accessed by faults",
        "mmu.stage1",
        "            if leaf:\n",
        "            if leaf and level == 3:\n"
        "                self._set_flags(eptp, entry_gpa, gva, entry, entry | paging.A)\n"
        "            if leaf:\n",
    ),
    # Where it leads.
    Fault(
        "offset in a 1 GiB page",
        "mmu.stage1",
        "(gva & ((1 << shift) - 1) & ~PAGE_MASK)",
        "(gva & ((1 << min(shift, 29)) - 1) & ~PAGE_MASK)",
    ),
    Fault("index", "mmu.stage1", "table | (gva >> shift & 511) << 3", "table | (gva >> shift & 255) << 3"),
    Fault(
        "where no memory answers",
        "mmu.stage1",
        "entry = words[hpa >> 3] if hpa < size else U64",
        "entry = words[hpa >> 3] if hpa < size else 0",
    ),
    # Contents of the TLB.
    Fault(
        "TLB: clean pages are writable", "mmu.stage1", "if not (writable and wanted & paging.D):", "if not writable:"
    ),
    Fault(
        "TLB: read-only pages are writable",
        "mmu.stage1",
        "if not (writable and wanted & paging.D):",
        "if not wanted & paging.D:",
    ),
    Fault(
        "TLB: executable",
        "mmu.stage1",
        "        if some_nx:\n            rights &= ~EXEC",
        "        if False:\n            rights &= ~EXEC",
    ),
    Fault("TLB: SMAP", "mmu.stage1", "(entry[2] is user or (not user and not", "(entry[2] is user or (not user or not"),
    Fault("flags of CR3", "mmu.stage1", "table = vcpu.cr3 & paging.ADDRESS", "table = vcpu.cr3 & ~7"),
    Fault("PAT of a 2 MiB page", "mmu.stage1", "paging.ADDRESS & ~((1 << 21) - 1)", "paging.ADDRESS"),
    # Contents of the paging-structure caches.
    Fault(
        "cached tables: rights above",
        "mmu.stage1",
        "_, table, _, every, some_nx, level = start",
        "_, table, _, _, some_nx, level, every = *start, paging.RW | paging.US",
    ),
    Fault("cached tables: NX above", "mmu.stage1", "every, some_nx, level + 1))", "every, 0, level + 1))"),
    Fault(
        "cached tables: where",
        "mmu.stage1",
        "tables.append((seen[0], table,",
        "tables.append((seen[0] ^ 0x1000, table,",
    ),
    Fault(
        "cached tables: of a level too low",
        "mmu.stage1",
        "levels = _BELOW[level]",
        "levels = _BELOW[max(level - 1, 2)]",
    ),
    # Operands that cross a page.
    Fault("second page", "cpu.instructions.load_store", "second = (gva + first) & U64", "second = gva + first"),
    Fault(
        "second page, first piece",
        "cpu.instructions.load_store",
        "first = min(size, PAGE_SIZE - offset)",
        "first = size",
    ),
)


class _FaultyImport(MetaPathFinder, Loader):
    """Imports a module of hvfuzz.machine with one line replaced; a line that is not found exactly once is an error."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._name = f"hvfuzz.machine.{fault.module}"

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name or path is None:
            return None
        file = Path(path[0]) / f"{name.rpartition('.')[2]}.py"
        return importlib.util.spec_from_file_location(name, file, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        file = str(module.__file__)
        source = Path(file).read_text()
        assert source.count(self._fault.line) == 1, f"{self._fault.line!r} in {file}"
        exec(compile(source.replace(self._fault.line, self._fault.wrong), file, "exec"), module.__dict__)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """plant(fault): until the end of the test, the reference compares a machine with this fault."""

    def plant_one(fault: Fault) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith(("hvfuzz.machine", "hvfuzz.references.stage1", "hvfuzz.references.stage1.unicorn")):
                parent, _, child = name.rpartition(".")
                monkeypatch.setattr(f"{parent}.{child}", module)  # Restores the original module at the end of the test.
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [_FaultyImport(fault), *sys.meta_path])

    return plant_one


def test_no_unexplained_difference(compare: Callable[..., Report]) -> None:
    report = compare("stage1", CASES, 1)
    assert not report.differences
    assert report.cases == CASES
    assert report.quirks["early-accessed"] > 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_of_the_model_is_caught(
    fault: Fault, plant: Callable[[Fault], None], compare: Callable[..., Report]
) -> None:
    plant(fault)
    assert compare("stage1", CASES_FOR_A_FAULT, 1).differences


def test_without_unicorn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unicorn", None)
    with pytest.raises(ReferenceError, match="pip install unicorn"):
        load_reference("stage1").compare(1, 1, lambda _done: None)


def test_the_same_seed_gives_the_same_cases() -> None:
    assert list(islice(cases(3), 50)) == list(islice(cases(3), 50))
    assert list(islice(cases(3), 50)) != list(islice(cases(4), 50))
