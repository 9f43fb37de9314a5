"""Runs the steps of a case on both sides, one by one, and compares all that software or memory shows of them."""

from collections.abc import Iterator
from typing import Final, NamedTuple, Self, assert_never

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, U64, WRITE
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.case import (
    Case,
    ClearFaults,
    Descriptor,
    Dma,
    InvalidateContext,
    InvalidateIotlb,
    MaskEvents,
    SetRoot,
    Step,
    Store,
    SwitchTranslation,
    Wait,
)
from hvfuzz.references.vtd.cosimulation import Cosimulation
from hvfuzz.references.vtd.iommu_driver import IommuDriver
from hvfuzz.references.vtd.memory_map import SCRATCH, SCRATCH_TABLES, slot
from hvfuzz.references.vtd.model import Model
from hvfuzz.references.vtd.qemu import DEVICES


class _Piece(NamedTuple):
    """Part of a DMA, within a page."""

    iova: int
    start: int
    """Offset in the DMA."""
    size: int


class Lockstep:
    """A model and a QEMU in the same state, as a context manager.

    After a Mismatch their states differ, and a new Lockstep is needed.
    """

    def __init__(self, width: int, memory: PhysicalMemory) -> None:
        self._both: Final = Cosimulation(width, memory)
        self._driver: Final = IommuDriver(self._both)
        self.model: Final[Model] = self._both.model
        self._written: set[int] = set()
        """Table words that are not zero."""

    def __enter__(self) -> Self:
        self._both.__enter__()
        try:
            self._start()
        except BaseException:
            self._both.qemu.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._both.qemu.close()

    def run(self, case: Case) -> None:
        """Run a case on both sides. Raises Mismatch at the first difference, ReferenceError if QEMU fails."""
        self.model.quirks.clear()
        self._reset(case)
        for step in case.steps:
            self._step(step)
        self._both.flush()

    def _start(self) -> None:
        """Write the scratch tables, fill the devices' buffers, and switch translation on with an empty root table."""
        for level in range(4, 1, -1):
            self._both.store64(slot(SCRATCH_TABLES, SCRATCH, level), SCRATCH_TABLES[level - 2] | READ | WRITE)
        self._both.store64(slot(SCRATCH_TABLES, SCRATCH, 1), SCRATCH | READ | WRITE)
        for number in range(len(DEVICES)):
            self._both.write_memory(SCRATCH, self._both.next_nonce(PAGE_SIZE - 1))
            self._dma(Dma(number, SCRATCH, PAGE_SIZE - 1, False, 0))
            assert any(self.model.buffers[number])
        self._driver.start()
        self._both.flush()

    def _reset(self, case: Case) -> None:
        """Undo what the last case left, write the tables of this one, and empty the caches."""
        self._driver.reset(case.queued)
        kept = {store.hpa for store in case.tables}
        for hpa in sorted(self._written - kept):
            self._both.write_memory(hpa, bytes(8))
        self._written.clear()
        for store in case.tables:
            self._step(store)
        self._driver.invalidate_all()

    def _step(self, step: Step) -> None:
        driver = self._driver
        match step:
            case Store():
                self._both.store64(step.hpa, step.value)
                self._written.add(step.hpa)
            case Dma():
                self._dma(step)
            case InvalidateContext():
                driver.invalidate_context(step)
            case InvalidateIotlb():
                driver.invalidate_iotlb(step)
            case Wait():
                driver.wait(step)
            case Descriptor():
                driver.submit_invalid(step)
            case ClearFaults():
                driver.clear_faults(step)
            case MaskEvents():
                driver.mask_events(step)
            case SetRoot():
                driver.set_root(step.hpa)
            case SwitchTranslation():
                driver.switch_translation(step.on)
            case _:
                assert_never(step)

    def _dma(self, step: Dma) -> None:
        """Run a DMA on both sides; compare the fault registers, and the memory that it may have written."""
        model, both = self.model, self._both
        access = WRITE if step.to_memory else READ
        pieces = list(_pieces(step))
        targets = [model.translate(DEVICES[step.device], piece.iova, access) for piece in pieces]
        self._count_quirks(step, targets)
        places = self._candidate_places(step, pieces, targets)
        for hpa, size in places.items():
            both.write_memory(hpa, bytes(size) if step.to_memory else both.next_nonce(size))
        self._transfer(step, pieces, targets)
        both.commands += both.qemu.dma(step.device, step.buffer, step.iova, step.size, to_memory=step.to_memory)
        both.flush()
        checks = self._driver.fault_checks()
        if step.to_memory:
            checks += [both.memory_check(hpa, size) for hpa, size in places.items()]
        answers = both.qemu.finish(step.device, [check.command for check in checks])
        for check, answer in zip(checks, answers, strict=True):
            check.compare(answer)

    def _candidate_places(self, step: Dma, pieces: list[_Piece], targets: list[int | None]) -> dict[int, int]:
        """{hpa: size} of all memory that the pieces could reach, by our model or by the case's list of pages."""
        places: dict[int, int] = {}
        for piece, hpa in zip(pieces, targets, strict=True):
            pages = [*step.watch, *([hpa & ~PAGE_MASK] if hpa is not None else [])]
            places |= {page | piece.iova & PAGE_MASK: piece.size for page in pages if page < self.model.memory.size}
        return places

    def _transfer(self, step: Dma, pieces: list[_Piece], targets: list[int | None]) -> None:
        """Move the bytes of a DMA on our side; a read that is blocked or leads to no memory gives zeros."""
        memory, buffer = self.model.memory, self.model.buffers[step.device]
        for piece, hpa in zip(pieces, targets, strict=True):
            start = step.buffer + piece.start
            if hpa is not None and hpa + piece.size <= memory.size:
                if step.to_memory:
                    memory.write(hpa, buffer[start : start + piece.size])
                else:
                    buffer[start : start + piece.size] = memory.read(hpa, piece.size)
            elif not step.to_memory:
                buffer[start : start + piece.size] = bytes(piece.size)

    def _count_quirks(self, step: Dma, targets: list[int | None]) -> None:
        """Count the quirks of the edu device that a DMA meets; `Model.translate` counts those of translation."""
        missing = [hpa is None or hpa >= self.model.memory.size for hpa in targets]
        if any(missing) and not all(missing):
            self.model.count_quirk(quirks.PARTIAL)
        if any(missing) and not step.to_memory:
            self.model.count_quirk(quirks.NO_MEMORY)


def _pieces(step: Dma) -> Iterator[_Piece]:
    """Split a DMA at page boundaries."""
    done = 0
    while done < step.size:
        iova = step.iova + done & U64
        size = min(step.size - done, PAGE_SIZE - (iova & PAGE_MASK))
        yield _Piece(iova, done, size)
        done += size
