"""What a case is made of: stores to tables, requests of devices, and commands to the IOMMU, in order."""

from typing import NamedTuple


class Store(NamedTuple):
    """Software writes a word of 64 bits."""

    hpa: int
    value: int


class Dma(NamedTuple):
    """Device `device` (0 or 1) moves `size` bytes between `iova` and its buffer, at the offset `buffer`."""

    device: int
    iova: int
    size: int
    to_memory: bool
    buffer: int
    watch: tuple[int, ...] = ()
    """Hpas of pages that the request may reach at most, besides the one where our model says that it goes."""


class InvalidateContext(NamedTuple):
    """A context-cache invalidation, by register or queue, whichever is in use; the registers take invalid ones too."""

    granularity: int
    did: int = 0
    bdf: int = 0
    function_mask: int = 0


class InvalidateIotlb(NamedTuple):
    """An IOTLB invalidation."""

    granularity: int
    did: int = 0
    iova: int = 0
    order: int = 0


class Wait(NamedTuple):
    """A wait descriptor (where the queue is in use): a status write of `data`, or a completion event."""

    data: int
    interrupt: bool


class Descriptor(NamedTuple):
    """Any descriptor (where the queue is in use), valid or not."""

    low: int
    high: int


class ClearFaults(NamedTuple):
    """Software clears F of the recording register, PFO, or both."""

    record: bool = True
    overflow: bool = True


class MaskEvents(NamedTuple):
    """Software writes the interrupt masks of fault and completion events."""

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
    """Steps, after the tables were written, over zeros, and both caches emptied."""

    name: str
    queued: bool
    """Invalidate by the queue, not by registers."""
    tables: tuple[Store, ...]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        way = "queue" if self.queued else "registers"
        return f"{self.name} by {way}: {' '.join(_text(step) for step in (*self.tables, *self.steps))}"


def _text(step: Step) -> str:
    """A step in a word."""
    if isinstance(step, Store):
        return f"[{step.hpa:#x}]={step.value:#x}"
    fields = (f"{value:#x}" if isinstance(value, int) else "|".join(map(hex, value)) for value in step)
    return f"{type(step).__name__}({','.join(fields)})"
