"""Runs the steps of a case on both sides, one by one, and compares all that software or devices see of them.

Three answers are known for each step: that of our model, that of the manual, and that of the manual with all of QEMU's
quirks. The first must be the second, and QEMU must give the third.
"""

from collections import Counter
from typing import Final, Self, assert_never

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, WRITE
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.iommu import DmaFault
from hvfuzz.references.reference import Quirk, changed_verdict
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
from hvfuzz.references.vtd.cosimulation import Check, Cosimulation, memory_check
from hvfuzz.references.vtd.iommu_driver import IommuDriver
from hvfuzz.references.vtd.manual.remapping import Remapping, Shown
from hvfuzz.references.vtd.memory_map import SCRATCH, SCRATCH_WORDS
from hvfuzz.references.vtd.qemu import DEVICES
from hvfuzz.references.vtd.quirks import QUIRKS


class Lockstep:
    """A model and a QEMU in the same state, as a context manager.

    After a Mismatch their states differ, and a new Lockstep is needed.
    """

    def __init__(self, width: int, memory: PhysicalMemory, changed: Counter[str]) -> None:
        """`changed` counts the cases whose verdict a quirk changed, by its name."""
        self._changed: Final = changed
        self._width: Final = width
        self._both: Final = Cosimulation(width, memory)
        self._driver: Final = IommuDriver(self._both)
        self._buffers: Final = tuple(bytearray(PAGE_SIZE) for _ in DEVICES)
        """Expected contents of the internal buffer of each edu device in QEMU."""
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
        self._reset(case)
        manual, quirky = Remapping(self._width, case), Remapping(self._width, case, QUIRKS)
        seen = []
        for step in case.steps:
            demanded, expected = manual.step(step), quirky.step(step)
            self._step(step, demanded, expected)
            seen.append(_visible(expected, self._both.memory.size))
        self._both.flush()
        self._count(case, quirky, seen)

    def _count(self, case: Case, quirky: Remapping, seen: list[Shown]) -> None:
        """Count the quirks without which the case would be a difference."""

        def replay(some: frozenset[Quirk]) -> list[Shown]:
            remapping = Remapping(self._width, case, some)
            return [_visible(remapping.step(step), self._both.memory.size) for step in case.steps]

        used = [quirk for quirk in QUIRKS if quirk.name in quirky.uses.asked]
        self._changed.update(quirk.name for quirk in changed_verdict(used, replay, seen))

    def _start(self) -> None:
        """Write the scratch tables, fill the devices' buffers, and switch translation on with an empty root table."""
        both = self._both
        for hpa, word in SCRATCH_WORDS.items():
            both.store64(hpa, word)
        for number, buffer in enumerate(self._buffers):
            data = both.next_nonce(PAGE_SIZE - 1)
            both.write_memory(SCRATCH, data)
            both.commands += both.qemu.dma(number, 0, SCRATCH, len(data), to_memory=False)
            both.flush()
            both.qemu.finish(number, [])
            buffer[: len(data)] = data
        self._driver.start()
        both.flush()

    def _reset(self, case: Case) -> None:
        """Undo what the last case left, write the tables of this one, and empty the caches."""
        self._driver.reset(case.queued)
        kept = {store.hpa for store in case.tables}
        for hpa in sorted(self._written - kept):
            self._both.write_memory(hpa, bytes(8))
        self._written.clear()
        for store in case.tables:
            self._store(store)
        self._driver.invalidate_all()

    def _step(self, step: Step, demanded: Shown, expected: Shown) -> None:
        driver = self._driver
        match step:
            case Store():
                self._store(step)
                return
            case Dma():
                self._dma(step, demanded, expected)
                return
            case InvalidateContext():
                driver.invalidate_context(step, demanded, expected)
            case InvalidateIotlb():
                driver.invalidate_iotlb(step)
            case Wait():
                driver.wait(step)
            case Descriptor():
                driver.submit_invalid(step, demanded, expected)
            case ClearFaults():
                driver.clear_faults(step, demanded, expected)
            case MaskEvents():
                driver.mask_events(step)
            case SetRoot():
                driver.set_root(step.hpa)
            case SwitchTranslation():
                driver.switch_translation(step.on)
            case _:
                assert_never(step)
        for check in driver.fault_checks(demanded, expected):
            self._both.check_later(check)

    def _store(self, step: Store) -> None:
        self._both.store64(step.hpa, step.value)
        self._written.add(step.hpa)

    def _dma(self, step: Dma, demanded: Shown, expected: Shown) -> None:
        """Run a DMA on both sides; compare the addresses, the fault registers, and the memory that QEMU has written."""
        both = self._both
        access = WRITE if step.to_memory else READ
        ours = tuple(self._translate(DEVICES[step.device], iova, access) for iova, _ in step.pieces())
        both.require(f"addresses of a DMA to {step.iova:#x}", ours, demanded.targets)
        places = self._candidate_places(step, (demanded.targets, expected.targets))
        memory = {hpa: bytes(size) if step.to_memory else both.next_nonce(size) for hpa, size in places.items()}
        for hpa, data in memory.items():
            both.write_memory(hpa, data)
        self._transfer(step, expected, memory)
        both.commands += both.qemu.dma(step.device, step.buffer, step.iova, step.size, to_memory=step.to_memory)
        both.flush()
        checks: list[Check] = self._driver.fault_checks(demanded, expected)
        if step.to_memory:
            checks += [memory_check(hpa, data) for hpa, data in memory.items()]
        answers = both.qemu.finish(step.device, [check.command for check in checks])
        for check, answer in zip(checks, answers, strict=True):
            check.compare(answer)

    def _translate(self, bdf: int, iova: int, access: int) -> int | None:
        """Our model's answer to a request."""
        try:
            return self._both.iommu.translate(bdf, iova, access)
        except DmaFault:
            return None

    def _candidate_places(self, step: Dma, targets: tuple[tuple[int | None, ...], ...]) -> dict[int, int]:
        """{hpa: size} of all memory that the pieces could reach: by the manual, by quirks, or by the case's list."""
        places: dict[int, int] = {}
        for number, (iova, size) in enumerate(step.pieces()):
            found = [each[number] for each in targets]
            pages = [*step.watch, *(hpa & ~PAGE_MASK for hpa in found if hpa is not None)]
            places |= {page | iova & PAGE_MASK: size for page in pages if page < self._both.memory.size}
        return places

    def _transfer(self, step: Dma, expected: Shown, memory: dict[int, bytes]) -> None:
        """Move the bytes of a DMA, as QEMU should; a read that is blocked or leads to no memory gives zeros."""
        buffer = self._buffers[step.device]
        start = step.buffer
        for (_, size), hpa in zip(step.pieces(), expected.targets, strict=True):
            if not step.to_memory:
                buffer[start : start + size] = bytes(size) if hpa is None else memory.get(hpa, bytes(size))
            elif hpa in memory:
                memory[hpa] = bytes(buffer[start : start + size])
            start += size


def _visible(shown: Shown, size: int) -> Shown:
    """What can be seen of a step in QEMU: not the addresses at and above `size`, where nothing answers."""
    return shown._replace(targets=tuple(hpa if hpa is not None and hpa < size else None for hpa in shown.targets))
