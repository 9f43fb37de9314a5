"""What a case is made of: stores to tables, requests of devices, and commands to the IOMMU, in order."""

from typing import Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_SHIFT


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


def _distant_frames(count: int) -> list[int]:
    """Frame addresses that differ from each other in four bits or more: a wrong bit or two lead to none of them."""
    frames: list[int] = []
    candidate = 0x1003
    while len(frames) < count:
        if all((candidate ^ frame).bit_count() >= 4 for frame in frames):
            frames.append(candidate)
        candidate += 1
    return [frame << PAGE_SHIFT for frame in frames]


_FRAMES: Final = _distant_frames(34)
ROOT, CONTEXTS, OTHER_ROOT, OTHER_CONTEXTS, QUEUE, STATUS, SCRATCH, SPARE_TABLE = _FRAMES[:8]
TABLES: Final = (tuple(_FRAMES[8:12]), tuple(_FRAMES[12:16]))
"""For each device the tables that a case may fill: level 1, 2, 3, 4."""
SCRATCH_TABLES: Final = tuple(_FRAMES[16:20])
"""Tables, level 1 to 4, that map SCRATCH to itself and never change."""
PAGES: Final = tuple(_FRAMES[20:34])
"""Small pages for data."""
LARGE_PAGES: Final = {2: (0x2A00_0000, 0x3460_0000), 3: (0x4000_0000, 0)}
"""Pages of 2 MiB and 1 GiB for data, by their level."""
NOWHERE: Final = 0x48_0000_0000
"""An address of 39 bits at which no memory answers."""


def index(iova: int, level: int) -> int:
    """Which entry of a table of that level translates `iova`."""
    return iova >> 3 + 9 * level & 511


def slot(tables: tuple[int, ...], iova: int, level: int) -> int:
    """Hpa of the entry of that level for `iova`."""
    return tables[level - 1] + 8 * index(iova, level)
