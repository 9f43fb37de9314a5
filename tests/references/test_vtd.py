"""The IOMMU against QEMU: no difference that no quirk explains, and no fault of the model that goes unseen."""

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from hvfuzz.machine import vtd, vtd_queue
from hvfuzz.machine.iommu import Iommu
from hvfuzz.machine.vtd_faults import EventMessage, FaultLog, FaultRecord
from hvfuzz.machine.vtd_queue import InvalidationQueue
from hvfuzz.machine.vtd_registers import VtdRegisters
from hvfuzz.machine.vtd_tables import VtdTables
from hvfuzz.references.reference import ReferenceError, Report
from hvfuzz.references.vtd import REFERENCE
from hvfuzz.references.vtd.comparison import WIDTHS, cases_of
from hvfuzz.references.vtd.qemu import Qemu
from hvfuzz.references.vtd.shadow import Cached, IotlbShadow

pytestmark = pytest.mark.ref_vtd

CASES = 6000
"""3,000 at each width."""
ENOUGH = 1500
"""Cases within which a fault of the model must show."""
Mutation = tuple[Callable[..., Any], str, str]

MUTATIONS: list[Mutation] = [
    (VtdTables.page, "entry & access != access", "not entry & access and not entry & 3"),
    (VtdTables.page, "FaultReason.WRITE if access & ~entry & WRITE", "FaultReason.READ if access & ~entry & WRITE"),
    (VtdTables.page, "self._reserved[2 * level + is_page]", "self._reserved[2 * level]"),
    (VtdTables.page, "rights &= entry", "rights = entry"),
    (VtdTables.page, "iova & (1 << shift) - 1", "iova & (1 << 21) - 1"),
    (VtdTables.page, "page >> 20 == INTERRUPT_RANGE", "page >> 20 == 0"),
    (VtdTables.page, "FaultReason.CONTEXT_INVALID if level == levels", "FaultReason.CONTEXT_INVALID if level == 4"),
    (VtdTables.context, "if high or low &", "if low &"),
    (VtdTables.context, "low & FPD != 0", "low & FPD != 0 and low & PRESENT != 0"),
    (VtdTables.context, "(CONTEXT_LOW_RESERVED | self._host_reserved)", "CONTEXT_LOW_RESERVED"),
    (VtdTables.context, "WIDTH_OF_LEVELS[levels] > self.guest_width", "WIDTH_OF_LEVELS[levels] > 48"),
    (VtdTables.context, "bdf & 0xFF", "bdf & 0xF8 ^ 8"),
    (vtd.table_reserved, "top = common | SL_PAGE_SIZE", "top = common"),
    (vtd.table_reserved, "(1 << 30) - PAGE_SIZE", "(1 << 29) - PAGE_SIZE"),
    (vtd.beyond_host, "(1 << width) - 1", "(1 << width + 1) - 1"),
    (Iommu.translate, "iova >> WIDTH_OF_LEVELS[levels]", "iova >> WIDTH_OF_LEVELS[levels] + 1"),
    (Iommu.translate, "iova >> 20 == INTERRUPT_RANGE", "iova >> 21 == INTERRUPT_RANGE >> 1"),
    (Iommu.translate, "tt is TranslationType.PASS_THROUGH", "tt is None"),
    (Iommu.translate, "iotlb[tag] = page\n", "pass\n"),
    (Iommu.invalidate_iotlb, "tag[0] == did]:", "tag[0] != did]:"),
    (Iommu.invalidate_iotlb, "iova >> PAGE_SHIFT + order", "iova >> PAGE_SHIFT"),
    (Iommu.invalidate_iotlb, "iotlb.pop((did, iova >> PAGE_SHIFT), None)", "pass"),
    (Iommu.invalidate_context, "cache[key].did == did", "cache[key].did != did"),
    (Iommu.invalidate_context, "cache.clear()", "pass"),
    (vtd_queue.perform_context, "FUNCTION_BITS[function_mask]", "FUNCTION_BITS[3 - function_mask]"),
    (vtd_queue.perform_iotlb, "order <= MOST_ADDRESS_MASK", "order <= 63"),
    (InvalidationQueue.process, "(self.head + 1) % self.entries", "(self.head + 2) % self.entries"),
    (InvalidationQueue._perform, "not _reserved(low, high, CONTEXT_RESERVED) and", "True and"),
    (InvalidationQueue._wait, "low >> STATUS_DATA_SHIFT", "low"),
    (InvalidationQueue._wait, "self.completed = True", "pass"),
    (FaultLog.record, "iova & ~PAGE_MASK", "iova"),
    (FaultLog.record, "self.overflow = True", "pass"),
    (FaultLog.record, "record.bdf == bdf", "record.bdf != bdf"),
    (FaultLog.status, "self.overflow else 0", "self.queue_error else 0"),
    (FaultRecord.words, "self.access & READ", "self.access & 2"),
    (FaultRecord.words, "| self.bdf", "| self.bdf ^ 1"),
    (EventMessage.signal, "self.pending = True", "pass"),
    (VtdRegisters._invalidate_iotlb, "asked << IOTLB_ACTUAL_SHIFT if done", "asked << IOTLB_ACTUAL_SHIFT if not done"),
    (VtdRegisters._command, "iommu.set_root_table(", "(lambda _: None)("),
]


def name_of(mutation: Mutation) -> str:
    return f"{mutation[0].__qualname__}: {mutation[2].strip()}"


def mutated(function: Callable[..., Any], old: str, new: str) -> Any:
    """The code of `function` with one piece of its source replaced."""
    assert isinstance(function, FunctionType)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__qualname__} has no {old!r}, or more than one"
    namespace: dict[str, Any] = {}
    exec(compile(source.replace(old, new), function.__code__.co_filename, "exec"), function.__globals__, namespace)
    return namespace[function.__name__].__code__


@pytest.mark.parametrize("seed", [1])
def test_no_unexplained_difference(compare: Callable[..., Report], seed: int) -> None:
    report = compare("vtd", CASES, seed)
    assert report.differences == ()
    assert report.cases == CASES
    unseen = {quirk.name for quirk in REFERENCE.quirks} - set(report.quirks)
    assert unseen == {"wait-one-effect"}  # it would end QEMU


@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_a_fault_of_the_model_is_seen(
    compare: Callable[..., Report], monkeypatch: pytest.MonkeyPatch, mutation: Mutation
) -> None:
    compare("vtd", 2, 1)  # skips where there is no QEMU
    monkeypatch.setattr(mutation[0], "__code__", mutated(*mutation))
    report = REFERENCE.compare(ENOUGH, 1, lambda _: None, most_differences=1)
    assert len(report.differences) == 1


def test_cases_depend_on_the_seed_alone() -> None:
    for width in WIDTHS:
        assert list(cases_of(width, 5, 200)) == list(cases_of(width, 5, 200))
        assert list(cases_of(width, 5, 50)) != list(cases_of(width, 6, 50))
    assert list(cases_of(39, 5, 50)) != list(cases_of(48, 5, 50))
