"""The hardware after power-on and boot: what nothing has changed has the value that a reset gives it.

What boot changes is judged by others: the tables, the translation switch and the root table by `ownership`. Helper of
the oracle `stale`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvfuzz.machine.machine import Machine

ENTRIES: Final = 64
"""Entries of each cache of translations."""
RECORDS: Final = 8
"""Fault recording registers (CAP_REG.NFR)."""


def faults(machine: Machine) -> Iterator[str]:
    """A text for each part that a reset should have left otherwise (VT-d spec, chapter 10: default values)."""
    iommu, tlb = machine.iommu, machine.tlb
    log, queue = iommu.log, iommu.queue
    parts: dict[str, tuple[object, object]] = {
        "the capacities of TLB, paging-structure caches and IOTLB": (
            (tlb.capacity, tlb.structures.capacity, iommu.capacity),
            (ENTRIES, ENTRIES, ENTRIES),
        ),
        "the fault recording registers": (log.records, [None] * RECORDS),
        "the next and the first of them": ((log.next, log.first), (0, 0)),
        "overflow, queue error and compression of faults": (
            (log.overflow, log.queue_error, log.compress),
            (False, False, False),
        ),
        "the fault status": (log.status(), 0),
        "the recorded faults": (iommu.faults, []),
        "whether a root table is set": (iommu.root_set, True),
        "the invalidation queue": (
            (queue.enabled, queue.base, queue.entries, queue.head, queue.tail, queue.completed),
            (False, 0, 1 << 8, 0, 0, False),
        ),
    }
    for name, event in (("faults", log.event), ("invalidations", queue.completion)):
        fields = event.masked, event.pending, event.data, event.address, event.upper_address, event.sent
        parts[f"the event of {name}"] = fields, (True, False, 0, 0, 0, 0)
    for what, (found, right) in parts.items():
        if found != right:
            yield f"{what}: {found}, expected {right}"
