"""Both sides do the steps of a case one by one; whatever software or memory can tell of them is compared."""

from collections.abc import Iterator
from typing import Final, NamedTuple, assert_never

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, WRITE
from hvfuzz.machine.memory import PhysicalMemory
from hvfuzz.machine.vtd.invalidation_queue import WAIT_INTERRUPT, WAIT_STATUS, DescriptorType, Granularity
from hvfuzz.machine.vtd.remapping_registers import CCMD_ICC, GLOBAL_QIE, GLOBAL_SRTP, GLOBAL_TE, IOTLB_IVT, Register
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.case import (
    QUEUE,
    ROOT,
    SCRATCH,
    SCRATCH_TABLES,
    STATUS,
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
    slot,
)
from hvfuzz.references.vtd.cosimulation import ALL, Check, Cosimulation, Mismatch
from hvfuzz.references.vtd.qemu import DEVICES, VTD_BASE

QUEUE_ENTRIES: Final = 256
FAULT_FIELDS: Final = ALL & ~(0xFFFFF << 40)
"""A fault recording register's high word without PV."""
ACTUAL_GRANULARITY: Final = 3 << 59
FAULT_PENDING: Final = 1 << 63
QUEUE_ERROR: Final = 1 << 4
ACCEPTED_TYPES: Final = (3, 4, 6, 7)
"""Types of descriptors that QEMU takes for features that it does not report."""


class _Piece(NamedTuple):
    """Part of a DMA, within a page."""

    iova: int
    start: int
    """Offset in the DMA."""
    size: int


class Lockstep(Cosimulation):
    """A model and a QEMU in the same state, as a context manager; `run` says how a case went.

    After a Mismatch they are not in the same state any more, and a new Lockstep is needed.
    """

    def __init__(self, width: int, memory: PhysicalMemory) -> None:
        super().__init__(width, memory)
        self._written: set[int] = set()
        """Table words that are not zero."""
        self._tail = 0
        self._masked = True

    def run(self, case: Case) -> None:
        """Do a case on both sides. Raises Mismatch at the first thing that differs, ReferenceError if QEMU fails."""
        self.model.quirks.clear()
        self._reset(case)
        for step in case.steps:
            self._step(step)
        self.flush()

    # Start and reset.

    def start(self) -> None:
        """Scratch tables, data in the devices' buffers, and translation on with an empty root table."""
        model = self.model
        for level in range(4, 1, -1):
            self.store(slot(SCRATCH_TABLES, SCRATCH, level), SCRATCH_TABLES[level - 2] | READ | WRITE)
        self.store(slot(SCRATCH_TABLES, SCRATCH, 1), SCRATCH | READ | WRITE)
        for number in range(len(DEVICES)):
            self.put(SCRATCH, self.next_nonce(PAGE_SIZE - 1))
            self._dma(Dma(number, SCRATCH, PAGE_SIZE - 1, False, 0))
            assert any(model.buffers[number])
        self.observe(Register.CAP, 8)
        self.write(Register.IQA, QUEUE, 8)
        self._root(ROOT)
        self._switch(True)
        self.flush()

    def _reset(self, case: Case) -> None:
        """Undo what the last case left, write the tables of this one, and empty the caches."""
        queue = self.model.iommu.queue
        if case.queued and not queue.enabled:
            self._tail = 0
            self.write(Register.IQT, 0, 8)
            self._command(queued=True)
        elif queue.enabled and not case.queued:
            self._submit(DescriptorType.WAIT | WAIT_STATUS, STATUS)  # QEMU switches off after a wait descriptor only
            self._command(queued=False)
            self.observe(Register.IQH, 8)
        if not self.model.iommu.enabled:
            self._switch(True)
        if self.model.iommu.root_table != ROOT:
            self._root(ROOT)
        if self.model.iommu.log.status() or queue.completed:
            self._clear(ClearFaults())
        if not self._masked:
            self._mask(MaskEvents(True))
        fresh = {store.hpa for store in case.tables}
        for hpa in sorted(self._written - fresh):
            self.put(hpa, bytes(8))
        self._written.clear()
        for store in case.tables:
            self._step(store)
        self._forget_everything()

    def _forget_everything(self) -> None:
        """Empty both caches, with as few commands as possible: every case begins so."""
        if self.model.iommu.queue.enabled:
            self._put_descriptor(DescriptorType.CONTEXT | Granularity.GLOBAL << 4, 0)
            self._submit(DescriptorType.IOTLB | Granularity.GLOBAL << 4, 0, observed=False)
        else:
            self.write(Register.CCMD, (CCMD_ICC | Granularity.GLOBAL << 29) << 32, 8)
            self.write(Register.IOTLB, (IOTLB_IVT | Granularity.GLOBAL << 28) << 32, 8)
        self.model.lose_contexts(InvalidateContext(Granularity.GLOBAL), {})
        self.model.lose_translations(InvalidateIotlb(Granularity.GLOBAL))

    # Steps.

    def _step(self, step: Step) -> None:
        match step:
            case Store():
                self.store(step.hpa, step.value)
                self._written.add(step.hpa)
            case Dma():
                self._dma(step)
            case InvalidateContext():
                self._invalidate_context(step)
            case InvalidateIotlb():
                self._invalidate_iotlb(step)
            case Wait():
                self._wait(step)
            case Descriptor():
                self._descriptor(step)
            case ClearFaults():
                self._clear(step)
            case MaskEvents():
                self._mask(step)
            case SetRoot():
                self._root(step.hpa)
            case SwitchTranslation():
                self._switch(step.on)
            case _:
                assert_never(step)

    def _dma(self, step: Dma) -> None:
        model, bdf = self.model, DEVICES[step.device]
        access = WRITE if step.to_memory else READ
        pieces = list(_pieces(step))
        went = [model.reach(bdf, piece.iova, access) for piece in pieces]
        self._note_dma(step, went)
        places: dict[int, int] = {}
        for piece, hpa in zip(pieces, went, strict=True):
            pages = [*step.watch, *([hpa & ~PAGE_MASK] if hpa is not None else [])]
            places |= {page | piece.iova & PAGE_MASK: piece.size for page in pages if page < model.memory.size}
        for hpa, size in places.items():
            self.put(hpa, bytes(size) if step.to_memory else self.next_nonce(size))
        buffer = model.buffers[step.device]
        for piece, hpa in zip(pieces, went, strict=True):
            start = step.buffer + piece.start
            if hpa is not None and hpa + piece.size <= model.memory.size:
                if step.to_memory:
                    model.memory.write(hpa, buffer[start : start + piece.size])
                else:
                    buffer[start : start + piece.size] = model.memory.read(hpa, piece.size)
            elif not step.to_memory:
                buffer[start : start + piece.size] = bytes(piece.size)
        self.commands += self.qemu.dma(step.device, step.buffer, step.iova, step.size, to_memory=step.to_memory)
        self.flush()
        checks = self._fault_checks()
        if step.to_memory:
            checks += [
                Check(f"memory at {hpa:#x}", f"read {hpa:#x} {size:#x}", model.memory.read(hpa, size))
                for hpa, size in places.items()
            ]
        answers = self.qemu.finish(step.device, [check.command for check in checks])
        for check, answer in zip(checks, answers, strict=True):
            check.judge(answer)

    def _note_dma(self, step: Dma, went: list[int | None]) -> None:
        """Count the quirks that a DMA meets, apart from those of translation."""
        model = self.model
        missing = [hpa is None or hpa >= model.memory.size for hpa in went]
        if any(missing) and not all(missing):
            model.meet(quirks.PARTIAL)
        if any(missing) and not step.to_memory:
            model.meet(quirks.NO_MEMORY)

    def _invalidate_context(self, step: InvalidateContext) -> None:
        model = self.model
        before = dict(model.iommu.context_cache)
        if model.iommu.queue.enabled:
            low = DescriptorType.CONTEXT | step.granularity << 4 | step.did << 16
            self._submit(low | step.bdf << 32 | step.function_mask << 48, 0)
        else:
            high = CCMD_ICC | step.granularity << 29 | step.function_mask
            self.write(Register.CCMD, high << 32 | step.bdf << 16 | step.did, 8)
            coarser = step.granularity == Granularity.DOMAIN
            self.observe(Register.CCMD, 8, ALL & ~ACTUAL_GRANULARITY if coarser else ALL)
        model.lose_contexts(step, before)

    def _invalidate_iotlb(self, step: InvalidateIotlb) -> None:
        address = step.iova & ~PAGE_MASK | step.order
        if self.model.iommu.queue.enabled:
            self._submit(DescriptorType.IOTLB | step.granularity << 4 | step.did << 16, address)
        else:
            self.write(Register.IVA, address, 8)
            self.write(Register.IOTLB, (IOTLB_IVT | step.granularity << 28 | step.did) << 32, 8)
            self.observe(Register.IOTLB, 8)
        self.model.lose_translations(step)

    def _wait(self, step: Wait) -> None:
        low = DescriptorType.WAIT | (WAIT_INTERRUPT if step.interrupt else WAIT_STATUS)
        self._submit(low | step.data << 32, STATUS)
        self.observe_memory(STATUS, 4)
        self.observe(Register.ICS, 4)
        self.observe(Register.IECTL, 4)

    def _descriptor(self, step: Descriptor) -> None:
        """An invalid descriptor; then software puts a valid one in its place, and the queue goes on."""
        at = QUEUE + self._tail * 16
        accepted = step.low & 0xF in ACCEPTED_TYPES
        self._submit(step.low, step.high, observed=not accepted)
        log = self.model.iommu.log
        if not log.queue_error:
            raise Mismatch(f"descriptor {step.low:#x}, {step.high:#x}", "valid", "invalid")
        wait = DescriptorType.WAIT | WAIT_STATUS | at << 32 & ALL
        if accepted:
            self.model.meet(quirks.QUEUE_TYPES)
            # Our model goes on as QEMU did, and nobody is told.
            self.model.memory.store64(at, int(DescriptorType.WAIT))
            self.model.memory.store64(at + 8, 0)
            self.model.iommu.registers.write(Register.FSTS, 4, QUEUE_ERROR)
            self.observe(Register.IQH, 8)
            return
        self.commands += self._tail_command()
        self.observe(Register.IQH, 8)
        self.store(at, wait)
        self.store(at + 8, STATUS)
        self.model.meet(quirks.QUEUE_RESUME)
        self.write(Register.FSTS, QUEUE_ERROR, 4)
        self.commands += self._tail_command()
        for register in (Register.IQH, Register.FSTS, Register.FECTL):
            self.observe(register, 4)
        self.observe_memory(STATUS, 4)

    def _clear(self, step: ClearFaults) -> None:
        event = self.model.iommu.log.event
        pending = event.pending
        if step.record:
            self.write(Register.FRCD + 12, FAULT_PENDING >> 32, 4)
        if pending and not event.pending:
            self.model.meet(quirks.EVENT_PENDING)
        self.write(Register.FSTS, 1 if step.overflow else 0, 4)
        self.write(Register.ICS, 1, 4)
        self.observe(Register.FSTS, 4)
        self.observe(Register.FECTL, 4)

    def _mask(self, step: MaskEvents) -> None:
        self._masked = step.masked
        for register in (Register.FECTL, Register.IECTL):
            self.write(register, 1 << 31 if step.masked else 0, 4)
            self.observe(register, 4)

    def _root(self, hpa: int) -> None:
        self.write(Register.RTADDR, hpa, 8)
        self._command(root=True)
        self.model.lose_everything()

    def _switch(self, on: bool) -> None:
        self._command(translate=on)
        self.model.lose_everything()

    # What both sides are told and asked.

    def _command(self, *, translate: bool | None = None, queued: bool | None = None, root: bool = False) -> None:
        """Write GCMD_REG: what is not named stays as it is."""
        iommu = self.model.iommu
        value = GLOBAL_SRTP if root else 0
        value |= GLOBAL_TE if (iommu.enabled if translate is None else translate) else 0
        value |= GLOBAL_QIE if (iommu.queue.enabled if queued is None else queued) else 0
        self.write(Register.GCMD, value, 4)
        self.observe(Register.GSTS, 4)

    def _submit(self, low: int, high: int, *, observed: bool = True) -> None:
        """Queue a descriptor."""
        self._put_descriptor(low, high)
        self.write(Register.IQT, self._tail << 4, 8)
        if observed:
            self.observe(Register.IQH, 8)
            self.observe(Register.FSTS, 4)

    def _put_descriptor(self, low: int, high: int) -> None:
        """Write a descriptor that the IOMMU is not told of yet."""
        self.put(QUEUE + self._tail * 16, (low | high << 64).to_bytes(16, "little"))
        self._tail = (self._tail + 1) % QUEUE_ENTRIES

    def _tail_command(self) -> list[str]:
        return [f"writeq {VTD_BASE + Register.IQT:#x} {self._tail << 4:#x}"]

    def _fault_checks(self) -> list[Check]:
        """The fault status, and the record if there is one."""
        status = self.check(Register.FSTS, 4)
        if not self.model.iommu.log.pending():
            return [status]
        self.model.meet(quirks.PASID_BITS)
        return [status, self.check(Register.FRCD, 8), self.check(Register.FRCD + 8, 8, FAULT_FIELDS)]


def _pieces(step: Dma) -> Iterator[_Piece]:
    done = 0
    while done < step.size:
        iova = step.iova + done & ALL
        size = min(step.size - done, PAGE_SIZE - (iova & PAGE_MASK))
        yield _Piece(iova, done, size)
        done += size
