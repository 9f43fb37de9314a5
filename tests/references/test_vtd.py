"""The IOMMU compared with QEMU: quirks explain every difference, and every fault planted in the model is detected."""

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from hvfuzz.machine.vtd import invalidation_queue, legacy_mode
from hvfuzz.machine.vtd.fault_log import EventMessage, FaultLog, FaultRecord
from hvfuzz.machine.vtd.invalidation_queue import InvalidationQueue
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.machine.vtd.remapping_registers import VtdRegisters
from hvfuzz.machine.vtd.walker import VtdTables
from hvfuzz.references.reference import ReferenceError, Report
from hvfuzz.references.vtd import REFERENCE
from hvfuzz.references.vtd.cases.random_faults import FAULT_WEIGHTS
from hvfuzz.references.vtd.cases.single_faults import single_faults
from hvfuzz.references.vtd.comparison import WIDTHS, cases_of
from hvfuzz.references.vtd.qemu import Qemu, version

pytestmark = pytest.mark.ref_vtd

CASES = 6000
"""3,000 at each width."""
CASES_FOR_A_FAULT = 3000
"""Number of cases within which a fault of the model must be detected."""
Mutation = tuple[int, Callable[..., Any], str, str]
"""(address width of the comparison, function, piece of its source, replacement)"""

OF_EIGHT_BITS = "[iotlb.pop(tag) for tag in list(iotlb) if tag[0] == did and not (tag[1] ^ iova >> PAGE_SHIFT) & 255]"
FLUSHED_WHEN_OFF = """if not value & GLOBAL_TE:
        iommu.invalidate_context()
        iommu.invalidate_iotlb()
    iommu.enabled = value & GLOBAL_TE != 0"""
REFUSED_WITHOUT_WALK = """if entry is not None:
        raise self._blocked(FaultReason(7 - access), bdf, iova, access, fpd)"""

MUTATIONS: list[Mutation] = [
    (39, VtdTables.page, "entry & access != access", "not entry & access and not entry & 3"),
    (39, VtdTables.page, "FaultReason.WRITE if access & ~entry & WRITE", "FaultReason.READ if access & ~entry & WRITE"),
    (39, VtdTables.page, "self._reserved[2 * level + is_page]", "self._reserved[2 * level]"),
    (39, VtdTables.page, "rights &= entry", "rights = entry"),
    (39, VtdTables.page, "iova & (1 << shift) - 1", "iova & (1 << 21) - 1"),
    (39, VtdTables.page, "page >> 20 == INTERRUPT_RANGE", "page >> 20 == 0"),
    (39, VtdTables.page, "FaultReason.CONTEXT_INVALID if level == levels", "FaultReason.CONTEXT_INVALID if level == 4"),
    (39, VtdTables.context, "if high or low &", "if low &"),
    (39, VtdTables.context, "low & FPD != 0", "low & FPD != 0 and low & PRESENT != 0"),
    (39, VtdTables.context, "(CONTEXT_LOW_RESERVED | self._host_reserved)", "CONTEXT_LOW_RESERVED"),
    (39, VtdTables.context, "WIDTH_OF_LEVELS[levels] > self.guest_width", "WIDTH_OF_LEVELS[levels] > 48"),
    (48, VtdTables.context, "bdf & 0xFF", "bdf & 0xF8 ^ 8"),
    (48, legacy_mode.table_reserved, "top = common | SL_PAGE_SIZE", "top = common"),
    (39, legacy_mode.table_reserved, "(1 << 30) - PAGE_SIZE", "(1 << 29) - PAGE_SIZE"),
    (48, legacy_mode.beyond_host, "(1 << width) - 1", "(1 << width + 1) - 1"),
    (48, Iommu.translate, "iova >> WIDTH_OF_LEVELS[levels]", "iova >> WIDTH_OF_LEVELS[levels] + 1"),
    (39, Iommu.translate, "iova >> 20 == INTERRUPT_RANGE", "iova >> 21 == INTERRUPT_RANGE >> 1"),
    (39, Iommu.translate, "tt is TranslationType.PASS_THROUGH", "tt is None"),
    (39, Iommu.translate, "iotlb[tag] = page\n", "pass\n"),
    (39, Iommu.invalidate_iotlb, "tag[0] == did]:", "tag[0] != did]:"),
    (39, Iommu.invalidate_iotlb, "iova >> PAGE_SHIFT + order", "iova >> PAGE_SHIFT"),
    (39, Iommu.invalidate_iotlb, "iotlb.pop((did, iova >> PAGE_SHIFT), None)", "pass"),
    (39, Iommu.invalidate_context, "cache[key].did == did", "cache[key].did != did"),
    (39, invalidation_queue.perform_context, "FUNCTION_BITS[function_mask]", "FUNCTION_BITS[3 - function_mask]"),
    (39, invalidation_queue.perform_iotlb, "order <= MOST_ADDRESS_MASK", "order <= 63"),
    (39, InvalidationQueue.process, "(self.head + 1) % self.entries", "(self.head + 2) % self.entries"),
    (39, InvalidationQueue._perform, "not _reserved(low, high, CONTEXT_RESERVED) and", "True and"),
    (39, InvalidationQueue._wait, "low >> STATUS_DATA_SHIFT", "low"),
    (39, FaultLog.record, "iova & ~PAGE_MASK", "iova"),
    (39, FaultLog.record, "self.overflow = True", "pass"),
    (39, FaultLog.record, "if self.overflow:", "if False:"),
    (39, FaultRecord.words, "self.access & READ", "self.access & 2"),
    (39, FaultRecord.words, "| self.bdf", "| self.bdf ^ 1"),
    (39, EventMessage.signal, "self.pending = True", "pass"),
    (39, VtdRegisters._invalidate_iotlb, "if done else 0)", "if not done else 0)"),
    (39, VtdRegisters._command, "iommu.set_root_table(", "(lambda _: None)("),
    # What QEMU does, or what the manual permits to other hardware.
    (39, Iommu.invalidate_context, "(did is None or cache[key].did == did)", "(bdf or cache[key].did == did)"),
    (39, Iommu.invalidate_context, "if bdf is None and did is None:", "if bdf is None:"),
    (
        39,
        Iommu.invalidate_context,
        "cache = self.context_cache\n",
        "cache = self.context_cache\n    self.iotlb.clear()\n",
    ),
    (39, Iommu.invalidate_iotlb, "[tag for tag in iotlb if tag[0] == did]:", "list(iotlb):"),
    (39, Iommu.invalidate_iotlb, "iotlb.pop((did, iova >> PAGE_SHIFT), None)", "self.invalidate_iotlb(did, iova, 9)"),
    (39, Iommu.invalidate_iotlb, "iotlb.pop((did, iova >> PAGE_SHIFT), None)", OF_EIGHT_BITS),
    (39, Iommu.invalidate_iotlb, "if tag[0] == did and", "if"),
    (39, Iommu.set_root_table, "self.root_set = True", "self.invalidate_context()"),
    (39, Iommu.set_root_table, "self.root_set = True", "self.invalidate_iotlb()"),
    (39, VtdRegisters._command, "iommu.enabled = value & GLOBAL_TE != 0", FLUSHED_WHEN_OFF),
    (39, Iommu.translate, "self.misses += 1", REFUSED_WITHOUT_WALK),
    (39, Iommu.translate, "self.misses += 1", "entry is None or self.log.clear_record(0)"),
    (39, Iommu.translate, "self.misses += 1", "iotlb.pop(tag, None)"),
    (39, Iommu.translate, "iotlb[tag] = page\n", "iotlb.setdefault(tag, page)\n"),
    (39, Iommu.translate, "tag = (did, iova >> PAGE_SHIFT)", "tag = (bdf, iova >> PAGE_SHIFT)"),
    (39, Iommu.translate, "context = self.context_cache.get(bdf)", "context = None"),
    (48, Iommu.translate, "if iova >> WIDTH_OF_LEVELS[levels]:", "if iova >> WIDTH_OF_LEVELS[levels] and not tt:"),
    (39, Iommu._load_context, "context.fpd)", "context.fpd and context.reason != 11)"),
    (39, VtdTables.context, "FaultReason.CONTEXT_NOT_PRESENT, fpd", "FaultReason.CONTEXT_NOT_PRESENT, False"),
    (39, VtdTables.page, "if page >> 20 == INTERRUPT_RANGE", "if page >> shift == INTERRUPT_RANGE << 20 >> shift"),
    (39, FaultLog.clear_record, "self._serviced()", "pass"),
    (39, FaultLog.record, "reason, bdf,", "reason, bdf | 0xFFFF << 40,"),
    (39, EventMessage.set_mask, "self.pending = False", "pass"),
    (39, VtdRegisters._write, "    queue.process()\n", "    pass\n"),
    (39, VtdRegisters._invalidate_context, "(asked << CCMD", "(min(asked, 1) << CCMD"),
    (39, InvalidationQueue._perform, "return kind == DescriptorType.WAIT", "return kind in (3, 4, 6, 7) or kind == 5"),
]


def name_of(mutation: Mutation) -> str:
    return f"{mutation[1].__qualname__}: {mutation[3].strip()}"


def mutated(function: Callable[..., Any], old: str, new: str) -> Any:
    """The code of `function` with one piece of its source replaced."""
    assert isinstance(function, FunctionType)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__qualname__} has no {old!r}, or more than one"
    namespace: dict[str, Any] = {}
    exec(compile(source.replace(old, new), function.__code__.co_filename, "exec"), function.__globals__, namespace)
    return namespace[function.__name__].__code__


@pytest.fixture(scope="module")
def installed() -> None:
    """Skip the test if QEMU is not installed, unless HVFUZZ_REFERENCES=required."""
    try:
        version()
    except ReferenceError as missing:
        if os.environ.get("HVFUZZ_REFERENCES") == "required":
            raise
        pytest.skip(str(missing))


def test_no_unexplained_difference(compare: Callable[..., Report]) -> None:
    report = compare("vtd", CASES, 1)
    assert report.differences == ()
    assert report.cases == CASES
    assert report.quirks.keys() == {quirk.name for quirk in REFERENCE.quirks}
    assert min(report.quirks.values()) > 0, "a quirk that changes no verdict must go"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_a_fault_of_the_model_is_seen(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    width, function, old, new = mutation
    monkeypatch.setattr(function, "__code__", mutated(function, old, new))
    report = REFERENCE.compare(CASES_FOR_A_FAULT, 1, lambda _: None, widths=(width,), max_differences=1)
    assert len(report.differences) == 1


@pytest.mark.usefixtures("installed")
def test_after_a_difference_the_comparison_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    function, old, new = FaultRecord.words, "| self.bdf", "| self.bdf ^ 1"
    monkeypatch.setattr(function, "__code__", mutated(function, old, new))
    report = REFERENCE.compare(100, 1, lambda _: None, max_differences=3)
    assert len(report.differences) == 3
    assert len({difference.number for difference in report.differences}) == 3
    assert report.differences[0].model != report.differences[0].reference
    assert "39 bits" in report.differences[0].case


def test_cases_depend_on_the_seed_alone() -> None:
    for width in WIDTHS:
        assert list(cases_of(width, 5, 200)) == list(cases_of(width, 5, 200))
        assert list(cases_of(width, 5, 50)) != list(cases_of(width, 6, 50))
    assert list(cases_of(39, 5, 50)) != list(cases_of(48, 5, 50))


@pytest.mark.parametrize(("width", "count"), [(39, 700), (48, 1616)])
def test_every_single_fault_is_among_the_cases(width: int, count: int) -> None:
    expected = list(single_faults(width))
    assert len(set(expected)) == len(expected) == count
    seen = Counter(case.name for case in cases_of(width, 1, CASES // 2))
    assert Counter(single.name for single in expected) == {name: seen[name] for name in {s.name for s in expected}}
    assert seen["sequence"] > 300
    assert set(seen) >= {fault.__name__ for fault in FAULT_WEIGHTS}


# Failures of the reference itself


HANG = 600
"""Seconds."""


def marked(mark: str) -> list[int]:
    """Ids of the processes with `mark` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition()` is true; it is a hang if that takes minutes, on however busy a machine."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "this hangs"
        time.sleep(0.02)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReferenceError, match=r"^qemu-system-x86_64 is not installed: .* qemu-system-x86$"):
        Qemu(39)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """NAME=VALUE in the environment of every process that the test starts."""
    text = f"HVFUZZ_MARK={uuid.uuid4()}"
    monkeypatch.setenv(*text.split("="))
    return text


def signalled(qemu: Qemu, mark: str, end: signal.Signals) -> str:
    """The error of a command after QEMU got the signal `end`; no process may be left then."""
    with closing(qemu):
        until(lambda: len(marked(mark)) == 1)  # A process that has only just begun has no environment yet.
        os.kill(*marked(mark), end)
        with pytest.raises(ReferenceError) as caught:
            qemu.run(["readl 0"] * 3)
    assert "\n" not in str(caught.value)
    assert marked(mark) == []
    return str(caught.value)


@pytest.mark.usefixtures("installed")
def test_a_qemu_that_dies_gives_one_line(mark: str) -> None:
    assert "ended with status -9" in signalled(Qemu(39), mark, signal.SIGKILL)


@pytest.mark.usefixtures("installed")
def test_a_qemu_that_hangs_gives_one_line(monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    monkeypatch.setattr("hvfuzz.references.vtd.qemu._HANG", 0.1)  # A stopped process never answers.
    assert "hangs: it does not answer within 0 minutes" in signalled(Qemu(39), mark, signal.SIGSTOP)


@pytest.mark.usefixtures("installed")
def test_a_command_that_qemu_refuses_gives_one_line(mark: str) -> None:
    with Qemu(48) as qemu, pytest.raises(ReferenceError, match=r"refuses 'nonsense'"):
        qemu.run(["nonsense"])
    assert marked(mark) == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, end: signal.Signals) -> None:
    mark = f"HVFUZZ_MARK={uuid.uuid4()}"
    environment = os.environ | dict([mark.split("=")]) | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "hvfuzz.cli", "reference", "vtd", "--cases", "1000000"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(marked(mark)) == 2)
    process.send_signal(end)
    assert process.wait(HANG) != 0
    until(lambda: marked(mark) == [])
    assert list(tmp_path.iterdir()) == []
