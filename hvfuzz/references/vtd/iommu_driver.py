"""Driver software of the IOMMU, on both sides: global commands, the invalidation queue, invalidations, fault events."""

from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, U64
from hvfuzz.machine.vtd.invalidation_queue import WAIT_INTERRUPT, WAIT_STATUS, DescriptorType, Granularity
from hvfuzz.machine.vtd.register_layout import CCMD_ICC, GLOBAL_QIE, GLOBAL_SRTP, GLOBAL_TE, IOTLB_IVT, Register
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.case import ClearFaults, Descriptor, InvalidateContext, InvalidateIotlb, MaskEvents, Wait
from hvfuzz.references.vtd.cosimulation import Check, Cosimulation, Mismatch
from hvfuzz.references.vtd.memory_map import QUEUE, ROOT, STATUS
from hvfuzz.references.vtd.qemu import VTD_BASE

QUEUE_ENTRIES: Final = 256
FAULT_FIELDS: Final = U64 & ~(0xFFFFF << 40)
"""The high word of a fault recording register, without PV (see the quirk frcd-pasid)."""
ACTUAL_GRANULARITY: Final = 3 << 59
"""CAIG in CCMD_REG."""
FAULT_PENDING: Final = 1 << 63
QUEUE_ERROR: Final = 1 << 4
"""IQE in FSTS_REG."""
ACCEPTED_TYPES: Final = (3, 4, 6, 7)
"""Descriptor types of features that QEMU accepts though it does not report them (see the quirk queue-types)."""


class IommuDriver:
    """Programs the IOMMU of our model and that of QEMU alike, and compares its registers afterwards."""

    def __init__(self, cosimulation: Cosimulation) -> None:
        self._both: Final = cosimulation
        self._model: Final = cosimulation.model
        self._tail = 0
        """Index of the next free queue entry."""
        self._masked = True
        """Fault and completion events are masked."""

    # Initial state of a case.

    def start(self) -> None:
        """Compare the capabilities, set the queue's address, and switch translation on with an empty root table."""
        self._both.compare_register(Register.CAP, 8)
        self._both.write_register(Register.IQA, QUEUE, 8)
        self.set_root(ROOT)
        self.switch_translation(True)

    def reset(self, queued: bool) -> None:
        """Undo what the last case changed, and select queued or register-based invalidation."""
        iommu = self._model.iommu
        queue = iommu.queue
        if queued and not queue.enabled:
            self._tail = 0
            self._both.write_register(Register.IQT, 0, 8)
            self._write_global_command(queued=True)
        elif queue.enabled and not queued:
            # QEMU disables the queue only when the last descriptor was a wait.
            self._submit(DescriptorType.WAIT | WAIT_STATUS, STATUS)
            self._write_global_command(queued=False)
            self._both.compare_register(Register.IQH, 8)
        if not iommu.enabled:
            self.switch_translation(True)
        if iommu.root_table != ROOT:
            self.set_root(ROOT)
        if iommu.log.status() or queue.completed:
            self.clear_faults(ClearFaults())
        if not self._masked:
            self.mask_events(MaskEvents(True))

    def invalidate_all(self) -> None:
        """Empty both caches, with as few commands as possible, since every case begins with it."""
        if self._model.iommu.queue.enabled:
            self._write_descriptor(DescriptorType.CONTEXT | Granularity.GLOBAL << 4, 0)
            self._submit(DescriptorType.IOTLB | Granularity.GLOBAL << 4, 0, compared=False)
        else:
            self._both.write_register(Register.CCMD, (CCMD_ICC | Granularity.GLOBAL << 29) << 32, 8)
            self._both.write_register(Register.IOTLB, (IOTLB_IVT | Granularity.GLOBAL << 28) << 32, 8)
        self._model.drop_contexts(InvalidateContext(Granularity.GLOBAL), {})
        self._model.drop_translations(InvalidateIotlb(Granularity.GLOBAL))

    # Steps of a case.

    def invalidate_context(self, step: InvalidateContext) -> None:
        """Invalidate the context cache (VT-d 6.5.1.1)."""
        before = dict(self._model.iommu.context_cache)
        if self._model.iommu.queue.enabled:
            low = DescriptorType.CONTEXT | step.granularity << 4 | step.did << 16
            self._submit(low | step.bdf << 32 | step.function_mask << 48, 0)
        else:
            high = CCMD_ICC | step.granularity << 29 | step.function_mask
            self._both.write_register(Register.CCMD, high << 32 | step.bdf << 16 | step.did, 8)
            coarser = step.granularity == Granularity.DOMAIN  # the quirk context-domain-is-global
            self._both.compare_register(Register.CCMD, 8, U64 & ~ACTUAL_GRANULARITY if coarser else U64)
        self._model.drop_contexts(step, before)

    def invalidate_iotlb(self, step: InvalidateIotlb) -> None:
        """Invalidate the IOTLB."""
        address = step.iova & ~PAGE_MASK | step.order
        if self._model.iommu.queue.enabled:
            self._submit(DescriptorType.IOTLB | step.granularity << 4 | step.did << 16, address)
        else:
            self._both.write_register(Register.IVA, address, 8)
            self._both.write_register(Register.IOTLB, (IOTLB_IVT | step.granularity << 28 | step.did) << 32, 8)
            self._both.compare_register(Register.IOTLB, 8)
        self._model.drop_translations(step)

    def wait(self, step: Wait) -> None:
        """Submit a wait descriptor (VT-d 6.5.2.8)."""
        low = DescriptorType.WAIT | (WAIT_INTERRUPT if step.interrupt else WAIT_STATUS)
        self._submit(low | step.data << 32, STATUS)
        self._both.compare_memory(STATUS, 4)
        self._both.compare_register(Register.ICS, 4)
        self._both.compare_register(Register.IECTL, 4)

    def submit_invalid(self, step: Descriptor) -> None:
        """Submit an invalid descriptor, then overwrite it with a valid one and restart the queue (VT-d 6.5.2.10)."""
        hpa = QUEUE + self._tail * 16
        accepted = step.low & 0xF in ACCEPTED_TYPES
        self._submit(step.low, step.high, compared=not accepted)
        if not self._model.iommu.log.queue_error:
            raise Mismatch(f"descriptor {step.low:#x}, {step.high:#x}", "valid", "invalid")
        if accepted:
            self._model.count_quirk(quirks.QUEUE_TYPES)
            # Make our model alone go on as QEMU did.
            self._model.memory.store64(hpa, int(DescriptorType.WAIT))
            self._model.memory.store64(hpa + 8, 0)
            self._model.iommu.registers.write(Register.FSTS, 4, QUEUE_ERROR)
            self._both.compare_register(Register.IQH, 8)
            return
        self._write_tail_of_qemu()
        self._both.compare_register(Register.IQH, 8)
        self._both.store64(hpa, DescriptorType.WAIT | WAIT_STATUS | hpa << 32 & U64)
        self._both.store64(hpa + 8, STATUS)
        self._model.count_quirk(quirks.QUEUE_RESUME)
        self._both.write_register(Register.FSTS, QUEUE_ERROR, 4)
        self._write_tail_of_qemu()
        for register in (Register.IQH, Register.FSTS, Register.FECTL):
            self._both.compare_register(register, 4)
        self._both.compare_memory(STATUS, 4)

    def clear_faults(self, step: ClearFaults) -> None:
        """Clear the fault record, the overflow flag and the completion status."""
        event = self._model.iommu.log.event
        pending = event.pending
        if step.record:
            self._both.write_register(Register.FRCD + 12, FAULT_PENDING >> 32, 4)
        if pending and not event.pending:
            self._model.count_quirk(quirks.EVENT_PENDING)
        self._both.write_register(Register.FSTS, 1 if step.overflow else 0, 4)
        self._both.write_register(Register.ICS, 1, 4)
        self._both.compare_register(Register.FSTS, 4)
        self._both.compare_register(Register.FECTL, 4)

    def mask_events(self, step: MaskEvents) -> None:
        """Mask or unmask fault and completion events."""
        self._masked = step.masked
        for register in (Register.FECTL, Register.IECTL):
            self._both.write_register(register, 1 << 31 if step.masked else 0, 4)
            self._both.compare_register(register, 4)

    def set_root(self, hpa: int) -> None:
        """Set the root table."""
        self._both.write_register(Register.RTADDR, hpa, 8)
        self._write_global_command(root=True)
        self._model.drop_all()

    def switch_translation(self, on: bool) -> None:
        """Switch translation on or off."""
        self._write_global_command(translate=on)
        self._model.drop_all()

    def fault_checks(self) -> list[Check]:
        """Checks of the fault status, and of the fault record if there is one."""
        status = self._both.register_check(Register.FSTS, 4)
        if not self._model.iommu.log.pending():
            return [status]
        self._model.count_quirk(quirks.PASID_BITS)
        low = self._both.register_check(Register.FRCD, 8)
        return [status, low, self._both.register_check(Register.FRCD + 8, 8, FAULT_FIELDS)]

    # Registers and queue entries.

    def _write_global_command(
        self, *, translate: bool | None = None, queued: bool | None = None, root: bool = False
    ) -> None:
        """Write GCMD_REG; None leaves a bit as it is."""
        iommu = self._model.iommu
        value = GLOBAL_SRTP if root else 0
        value |= GLOBAL_TE if (iommu.enabled if translate is None else translate) else 0
        value |= GLOBAL_QIE if (iommu.queue.enabled if queued is None else queued) else 0
        self._both.write_register(Register.GCMD, value, 4)
        self._both.compare_register(Register.GSTS, 4)

    def _submit(self, low: int, high: int, *, compared: bool = True) -> None:
        """Write a descriptor and advance the tail register past it."""
        self._write_descriptor(low, high)
        self._both.write_register(Register.IQT, self._tail << 4, 8)
        if compared:
            self._both.compare_register(Register.IQH, 8)
            self._both.compare_register(Register.FSTS, 4)

    def _write_descriptor(self, low: int, high: int) -> None:
        """Write a descriptor to memory; the tail register stays behind it."""
        self._both.write_memory(QUEUE + self._tail * 16, (low | high << 64).to_bytes(16, "little"))
        self._tail = (self._tail + 1) % QUEUE_ENTRIES

    def _write_tail_of_qemu(self) -> None:
        """Write the tail register of QEMU alone, which fetches nothing before that (see the quirk queue-resume)."""
        self._both.commands.append(f"writeq {VTD_BASE + Register.IQT:#x} {self._tail << 4:#x}")
