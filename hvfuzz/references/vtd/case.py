"""A case: stores to tables, DMA requests of devices, and commands to the IOMMU, in order."""

from typing import NamedTuple

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, U64


class Store(NamedTuple):
    """Software writes a 64-bit word."""

    hpa: int
    value: int


class Dma(NamedTuple):
    """A DMA of `size` bytes between `iova` and offset `buffer` in the buffer of device number `device` (0 or 1)."""

    device: int
    iova: int
    size: int
    to_memory: bool
    buffer: int
    watch: tuple[int, ...] = ()
    """Hpas of pages that the request may reach in QEMU, besides those that the manual gives, with or without quirks."""

    def pieces(self) -> list[tuple[int, int]]:
        """(iova, size) of its parts, each within a page."""
        pieces = []
        done = 0
        while done < self.size:
            iova = self.iova + done & U64
            size = min(self.size - done, PAGE_SIZE - (iova & PAGE_MASK))
            pieces.append((iova, size))
            done += size
        return pieces


class InvalidateContext(NamedTuple):
    """A context-cache invalidation, by queue or registers (see `Case.queued`).

    Granularity 0 is reserved, and is used with registers only.
    """

    granularity: int
    did: int = 0
    bdf: int = 0
    function_mask: int = 0


class InvalidateIotlb(NamedTuple):
    """An IOTLB invalidation, by queue or registers; of 2**order pages around `iova` if it is page-selective."""

    granularity: int
    did: int = 0
    iova: int = 0
    order: int = 0


class Wait(NamedTuple):
    """A wait descriptor: a status write of `data`, or a completion event. Queued invalidation only."""

    data: int
    interrupt: bool


class Descriptor(NamedTuple):
    """An invalid descriptor. Queued invalidation only."""

    low: int
    high: int


class ClearFaults(NamedTuple):
    """Software clears F of the fault recording register, PFO in FSTS_REG, or both."""

    record: bool = True
    overflow: bool = True


class MaskEvents(NamedTuple):
    """Software sets or clears the interrupt masks of fault and completion events."""

    masked: bool


class SetRoot(NamedTuple):
    """Software sets another root table."""

    hpa: int


class SwitchTranslation(NamedTuple):
    """Software switches translation off or on."""

    on: bool


Step = (
    Store
    | Dma
    | InvalidateContext
    | InvalidateIotlb
    | Wait
    | Descriptor
    | ClearFaults
    | MaskEvents
    | SetRoot
    | SwitchTranslation
)


class Case(NamedTuple):
    """Tables to write over zeros, and steps to run after that, with both caches empty."""

    name: str
    queued: bool
    """Invalidations go through the queue, not through registers."""
    tables: tuple[Store, ...]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        way = "queue" if self.queued else "registers"
        return f"{self.name} by {way}: {' '.join(_text(step) for step in (*self.tables, *self.steps))}"


def _text(step: Step) -> str:
    """A step as one word of text."""
    if isinstance(step, Store):
        return f"[{step.hpa:#x}]={step.value:#x}"
    fields = (f"{value:#x}" if isinstance(value, int) else "|".join(map(hex, value)) for value in step)
    return f"{type(step).__name__}({','.join(fields)})"
