"""Driver software of the IOMMU, on both sides: global commands, the invalidation queue, invalidations, fault events."""

from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, U64
from hvfuzz.machine.vtd.invalidation_queue import WAIT_INTERRUPT, WAIT_STATUS, DescriptorType, Granularity
from hvfuzz.machine.vtd.register_layout import CCMD_ICC, GLOBAL_QIE, GLOBAL_SRTP, GLOBAL_TE, IOTLB_IVT, Register
from hvfuzz.references.vtd.case import ClearFaults, Descriptor, InvalidateContext, InvalidateIotlb, MaskEvents, Wait
from hvfuzz.references.vtd.cosimulation import Check, Cosimulation, register_check
from hvfuzz.references.vtd.manual.remapping import Shown
from hvfuzz.references.vtd.memory_map import QUEUE, ROOT, STATUS
from hvfuzz.references.vtd.qemu import VTD_BASE

QUEUE_ENTRIES: Final = 256
ACTUAL_GRANULARITY_SHIFT: Final = 59
"""Lowest bit of CAIG in CCMD_REG."""
FAULT_PENDING: Final = 1 << 63
QUEUE_ERROR: Final = 1 << 4
"""IQE in FSTS_REG."""


class IommuDriver:
    """Programs the IOMMU of our model and that of QEMU alike, and compares its registers afterwards.

    Of the `Shown` of a step, the first is what the manual demands of our model, the second is expected of QEMU.
    """

    def __init__(self, cosimulation: Cosimulation) -> None:
        self._both: Final = cosimulation
        self._iommu: Final = cosimulation.iommu
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
        iommu = self._iommu
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
        self._write_fault_registers(ClearFaults())
        self._both.compare_register(Register.FSTS, 4)
        if not self._masked:
            self.mask_events(MaskEvents(True))

    def invalidate_all(self) -> None:
        """Empty both caches, with as few commands as possible, since every case begins with it."""
        if self._iommu.queue.enabled:
            self._write_descriptor(DescriptorType.CONTEXT | Granularity.GLOBAL << 4, 0)
            self._submit(DescriptorType.IOTLB | Granularity.GLOBAL << 4, 0, compared=False)
        else:
            self._both.write_register(Register.CCMD, (CCMD_ICC | Granularity.GLOBAL << 29) << 32, 8)
            self._both.write_register(Register.IOTLB, (IOTLB_IVT | Granularity.GLOBAL << 28) << 32, 8)

    # Steps of a case.

    def invalidate_context(self, step: InvalidateContext, demanded: Shown, expected: Shown) -> None:
        """Invalidate the context cache (VT-d 6.5.1.1)."""
        if self._iommu.queue.enabled:
            low = DescriptorType.CONTEXT | step.granularity << 4 | step.did << 16
            self._submit(low | step.bdf << 32 | step.function_mask << 48, 0)
            return
        high = CCMD_ICC | step.granularity << 29 | step.function_mask
        self._both.write_register(Register.CCMD, high << 32 | step.bdf << 16 | step.did, 8)
        done = self._iommu.registers.read(Register.CCMD, 8)
        actual = 3 << ACTUAL_GRANULARITY_SHIFT
        self._both.require("CAIG", (done & actual) >> ACTUAL_GRANULARITY_SHIFT, demanded.actual)
        self._both.expect_register(Register.CCMD, 8, done & ~actual | expected.actual << ACTUAL_GRANULARITY_SHIFT)

    def invalidate_iotlb(self, step: InvalidateIotlb) -> None:
        """Invalidate the IOTLB."""
        address = step.iova & ~PAGE_MASK | step.order
        if self._iommu.queue.enabled:
            self._submit(DescriptorType.IOTLB | step.granularity << 4 | step.did << 16, address)
        else:
            self._both.write_register(Register.IVA, address, 8)
            self._both.write_register(Register.IOTLB, (IOTLB_IVT | step.granularity << 28 | step.did) << 32, 8)
            self._both.compare_register(Register.IOTLB, 8)

    def wait(self, step: Wait) -> None:
        """Submit a wait descriptor (VT-d 6.5.2.8)."""
        low = DescriptorType.WAIT | (WAIT_INTERRUPT if step.interrupt else WAIT_STATUS)
        self._submit(low | step.data << 32, STATUS)
        self._both.compare_memory(STATUS, 4)
        self._both.compare_register(Register.ICS, 4)
        self._both.compare_register(Register.IECTL, 4)

    def submit_invalid(self, step: Descriptor, demanded: Shown, expected: Shown) -> None:
        """Submit an invalid descriptor, then overwrite it with a valid one and restart the queue (VT-d 6.5.2.10)."""
        both = self._both
        slot = self._tail
        hpa = QUEUE + slot * 16
        self._write_descriptor(step.low, step.high)
        both.write_register(Register.IQT, self._tail << 4, 8)
        (status, performed), (their_status, their_performed) = demanded.before, expected.before
        both.require_register(Register.FSTS, 4, status)
        both.require_register(Register.IQH, 4, slot << 4)
        accepted = not their_status & QUEUE_ERROR
        if not accepted:
            self._write_tail_of_qemu()  # While IQE is set, that has no effect.
        both.expect_register(Register.FSTS, 4, their_status)
        both.expect_register(Register.IQH, 4, (self._tail if accepted else slot) << 4)
        both.store64(hpa, DescriptorType.WAIT | WAIT_STATUS | hpa << 32 & U64)
        both.store64(hpa + 8, STATUS)
        both.write_register(Register.FSTS, QUEUE_ERROR, 4)
        both.require_register(Register.IQH, 4, (self._tail if performed else slot) << 4)
        if accepted:
            both.commands.append(f"write {STATUS:#x} 0x4 0x{self._both.memory.read(STATUS, 4).hex()}")
        else:
            both.expect_register(Register.IQH, 4, (self._tail if their_performed else slot) << 4)
            self._write_tail_of_qemu()
        both.compare_register(Register.IQH, 4)
        both.compare_memory(STATUS, 4)

    def clear_faults(self, step: ClearFaults, demanded: Shown, expected: Shown) -> None:
        """Clear the fault record, the overflow flag and the completion status."""
        if step.record:
            self._clear_record()
        self._both.require_register(Register.FECTL, 4, demanded.before[0])
        self._both.expect_register(Register.FECTL, 4, expected.before[0])
        self._write_fault_registers(step._replace(record=False))

    def _write_fault_registers(self, step: ClearFaults) -> None:
        if step.record:
            self._clear_record()
        self._both.write_register(Register.FSTS, 1 if step.overflow else 0, 4)
        self._both.write_register(Register.ICS, 1, 4)

    def _clear_record(self) -> None:
        self._both.write_register(Register.FRCD + 12, FAULT_PENDING >> 32, 4)

    def mask_events(self, step: MaskEvents) -> None:
        """Mask or unmask fault and completion events."""
        self._masked = step.masked
        for register in (Register.FECTL, Register.IECTL):
            self._both.write_register(register, 1 << 31 if step.masked else 0, 4)
        self._both.compare_register(Register.IECTL, 4)

    def set_root(self, hpa: int) -> None:
        """Set the root table."""
        self._both.write_register(Register.RTADDR, hpa, 8)
        self._write_global_command(root=True)

    def switch_translation(self, on: bool) -> None:
        """Switch translation on or off."""
        self._write_global_command(translate=on)

    def fault_checks(self, demanded: Shown, expected: Shown) -> list[Check]:
        """Compare our fault registers with the manual, and return checks of those of QEMU."""
        both = self._both
        both.require_register(Register.FSTS, 4, demanded.status)
        both.require_register(Register.FECTL, 4, demanded.event)
        if demanded.record:
            for number, word in enumerate(demanded.record):
                both.require_register(Register.FRCD + 8 * number, 8, word)
        return [
            register_check(Register.FSTS, 4, expected.status),
            register_check(Register.FECTL, 4, expected.event),
            *(register_check(Register.FRCD + 8 * number, 8, word) for number, word in enumerate(expected.record or ())),
        ]

    # Registers and queue entries.

    def _write_global_command(
        self, *, translate: bool | None = None, queued: bool | None = None, root: bool = False
    ) -> None:
        """Write GCMD_REG; None leaves a bit as it is."""
        iommu = self._iommu
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

    def _write_descriptor(self, low: int, high: int) -> None:
        """Write a descriptor to memory; the tail register stays behind it."""
        self._both.write_memory(QUEUE + self._tail * 16, (low | high << 64).to_bytes(16, "little"))
        self._tail = (self._tail + 1) % QUEUE_ENTRIES

    def _write_tail_of_qemu(self) -> None:
        """Write the tail register of QEMU alone, which fetches nothing before that (see the quirk queue-resume)."""
        self._both.commands.append(f"writeq {VTD_BASE + Register.IQT:#x} {self._tail << 4:#x}")
