"""Hooked hardware: memory that reports each access before it happens, caches each flush, a clock each charge.

An object gets its hooks by changing its class, and loses them the same way. The reason is not speed, since testing for
a hook in each access of memory would cost 0.1 % of a run: this way the machine holds no code for being watched.

These classes only report; they make no judgement. Faults they raise belong to the caller.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine import raced_writes
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, SIZE_MASK, U64, WORD, WORDS_PER_PAGE
from hvfuzz.machine.clock import Clock
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.oracles.shadow.changes import DMA

if TYPE_CHECKING:
    from types import FrameType

    from hvfuzz.machine.devices.pci_function import Device

Flush = Callable[[int, int], None]
"""Called with (space, page) for each page that an invalidation covers; either may be EVERYTHING."""
FlushContext = Callable[[int | None, int | None, int], None]
"""Called with the arguments of `Iommu.invalidate_context`."""
Caches = tuple[type[Tlb], type[Iommu]]
OURS: Final = "hvfuzz."
PLANTED: Final = ("hvfuzz.bugs.", raced_writes.__name__)
"""Modules whose code counts as the code that calls it: planted bugs, and the hooks of a race."""
NO_SPACE: Final = -2
"""Sentinel for the space of domain id 0, which is that of no domain."""
EVERYTHING: Final = -1
"""Sentinel for a space or a page: all of them."""


def responsible_module(frame: FrameType | None) -> str:
    """Name of the module of hvfuzz whose code runs in `frame`; see PLANTED."""
    while frame is not None:
        module: str = frame.f_globals.get("__name__", "")
        if module.startswith(OURS) and not module.startswith(PLANTED):
            return module
        frame = frame.f_back
    return ""


class HookedView:
    """Memory as a sequence of units of `unit` bytes; calls `check`(hpa, size, write) before each access."""

    __slots__ = ("_check", "_unit", "_view")

    def __init__(self, view: memoryview, unit: int, check: Callable[[int, int, bool], None]) -> None:
        self._view: Final = view
        self._unit: Final = unit
        self._check: Final = check

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, place: int | slice) -> Any:
        self._check(*self._range(place), False)
        return self._view[place]

    def __setitem__(self, place: int | slice, value: Any) -> None:
        self._check(*self._range(place), True)
        self._view[place] = value

    def _range(self, place: int | slice) -> tuple[int, int]:
        """(hpa, size) of the units at `place`."""
        units = range(len(self._view))[place] if isinstance(place, slice) else range(place, place + 1)
        return units.start * self._unit, len(units) * self._unit


def recorded_memory(written: Callable[[int, bytes], None]) -> type[PhysicalMemory]:
    """A class of memory that calls `written`(hpa, the bytes) after each write that memory took."""

    class RecordedMemory(PhysicalMemory):
        """See `recorded_memory`."""

        __slots__ = ()

        def store64(self, hpa: int, value: int) -> None:
            super().store64(hpa, value)
            if not hpa & WORD - 1:  # Else it came through `store`.
                written(hpa, value.to_bytes(WORD, "little"))

        def store(self, hpa: int, size: int, value: int) -> None:
            super().store(hpa, size, value)
            written(hpa, (value & SIZE_MASK[size]).to_bytes(size, "little"))

        def write(self, hpa: int, data: Any) -> None:
            super().write(hpa, data)
            written(hpa, bytes(data))

        def fill(self, hfn: int, word: int = 0) -> None:
            super().fill(hfn, word)
            written(hfn << PAGE_SHIFT, (word & U64).to_bytes(WORD, "little") * WORDS_PER_PAGE)

    return RecordedMemory


def hooked_memory(
    check: Callable[[int, int, bool], None], hooked: Callable[[], bool], base: type[PhysicalMemory] = PhysicalMemory
) -> type[PhysicalMemory]:
    """A class of memory, otherwise as `base`, that calls `check`(hpa, size, write) before each access.

    `data` and `words` are hooked for a caller for whom `hooked`() is true: hardware reads its tables through them.
    """
    view: Any = vars(PhysicalMemory)
    data, words = view["data"].__get__, view["words"].__get__

    def hooked_data(memory: PhysicalMemory) -> Any:
        return HookedView(data(memory), 1, check) if hooked() else data(memory)

    def hooked_words(memory: PhysicalMemory) -> Any:
        return HookedView(words(memory), WORD, check) if hooked() else words(memory)

    below: Any = base  # known only when memory is hooked

    class HookedMemory(below):  # type: ignore[misc]
        """See `hooked_memory`."""

        __slots__ = ()

        data: Any = property(hooked_data, view["data"].__set__)
        words: Any = property(hooked_words, view["words"].__set__)

        def load64(self, hpa: int) -> int:
            check(hpa, WORD, False)
            value: int = super().load64(hpa)
            return value

        def load(self, hpa: int, size: int) -> int:
            check(hpa, size, False)
            value: int = super().load(hpa, size)
            return value

        def read(self, hpa: int, n: int) -> bytes:
            check(hpa, n, False)
            value: bytes = super().read(hpa, n)
            return value

        def store64(self, hpa: int, value: int) -> None:
            check(hpa, WORD, True)
            super().store64(hpa, value)

        def store(self, hpa: int, size: int, value: int) -> None:
            check(hpa, size, True)
            super().store(hpa, size, value)

        def write(self, hpa: int, data: Any) -> None:
            check(hpa, len(data), True)
            super().write(hpa, data)

        def fill(self, hfn: int, word: int = 0) -> None:
            check(hfn << PAGE_SHIFT, PAGE_SIZE, True)
            super().fill(hfn, word)

        def copy(self, dst: int, src: int, n: int) -> None:
            check(src, n, False)
            check(dst, n, True)
            super().copy(dst, src, n)

    return HookedMemory


def hooked_clock(charged: Callable[[FrameType, int], None]) -> type[Clock]:
    """A class of clocks that call `charged`(frame of the code, cycles added). Setting a clock back is no charge."""
    slot: Any = vars(Clock)["cycles"]

    def set_cycles(clock: Clock, cycles: int) -> None:
        added = cycles - slot.__get__(clock)
        slot.__set__(clock, cycles)
        if added > 0:
            charged(sys._getframe(1), added)

    return type("HookedClock", (Clock,), {"__slots__": (), "cycles": property(slot.__get__, set_cycles)})


def dma_space(did: int) -> int:
    """The space of the devices with this domain id, which is the number of their domain plus 1."""
    return did - 1 | DMA if did else NO_SPACE


def hooked_caches(
    flush: Flush, flush_context: FlushContext, switched: Callable[[], None], space_of: Callable[[int], int]
) -> Caches:
    """Classes of TLB and IOMMU that report each invalidation of translations and of context entries.

    `switched`() is called after translation was switched on or off. `space_of` gives the space of an EPT root.
    """

    class HookedTlb(Tlb):
        """See `hooked_caches`."""

        __slots__ = ()

        def invept(self, eptp: int | None) -> None:
            flush(EVERYTHING if eptp is None else space_of(eptp & EP4TA), EVERYTHING)
            super().invept(eptp)

    class HookedIommu(Iommu):
        """See `hooked_caches`."""

        __slots__ = ()

        def invalidate_iotlb(self, did: int | None = None, iova: int | None = None, order: int = 0) -> None:
            space = EVERYTHING if did is None else dma_space(did)
            for page in (EVERYTHING,) if iova is None else range(*_pages(iova, order)):
                flush(space, page)
            super().invalidate_iotlb(did, iova, order)

        def invalidate_context(self, bdf: int | None = None, did: int | None = None, *, ignore: int = 0) -> None:
            flush_context(bdf, did, ignore)
            super().invalidate_context(bdf, did, ignore=ignore)

        def disable(self) -> None:
            super().disable()
            switched()

        def enable(self, root_table: int) -> None:
            super().enable(root_table)
            switched()

    return HookedTlb, HookedIommu


def hooked_device(kind: type[Device], about_to_reset: Callable[[Device], None]) -> type[Device]:
    """A class of devices of that kind that calls `about_to_reset`(device) before the host resets it."""

    def reset(device: Device) -> None:
        about_to_reset(device)
        kind.reset(device)

    return type(f"Hooked{kind.__name__}", (kind,), {"__slots__": (), "reset": reset, "__doc__": "See `hooked_device`."})


def _pages(iova: int, order: int) -> tuple[int, int]:
    """(first page, end) of the aligned range of 2**order pages that an invalidation covers."""
    first = iova >> PAGE_SHIFT & -(1 << order)
    return first, first + (1 << order)
