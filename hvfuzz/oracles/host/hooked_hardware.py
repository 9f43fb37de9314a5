"""Hooked hardware: memory that reports each access before it happens, and caches that report each flush.

An object gets its hooks by changing its class, and loses them the same way. The reason is not speed, since testing for
a hook in each access of memory would cost 0.1 % of a run: this way the machine holds no code for being watched.

These classes only report; they make no judgement. Faults they raise belong to the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, WORD
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.oracles.shadow.changes import DMA

if TYPE_CHECKING:
    from collections.abc import Callable

WORD_SHIFT: Final = 3
EVERYTHING: Final = -1
"""Sentinel for a space or a page: all of them."""


class HookedWords:
    """Words of memory to read; calls `check`(hpa, size, write) before each read."""

    __slots__ = ("_check", "_words")

    def __init__(self, words: memoryview, check: Callable[[int, int, bool], None]) -> None:
        self._words: Final = words
        self._check: Final = check

    def __getitem__(self, word: int) -> int:
        self._check(word << WORD_SHIFT, WORD, False)
        value: int = self._words[word]
        return value


def hooked_memory(check: Callable[[int, int, bool], None]) -> type[PhysicalMemory]:
    """A class of memory that calls `check`(hpa, size, write) before each access."""

    class HookedMemory(PhysicalMemory):
        """See `hooked_memory`."""

        __slots__ = ()

        def load64(self, hpa: int) -> int:
            check(hpa, WORD, False)
            return super().load64(hpa)

        def load(self, hpa: int, size: int) -> int:
            check(hpa, size, False)
            return super().load(hpa, size)

        def read(self, hpa: int, n: int) -> bytes:
            check(hpa, n, False)
            return super().read(hpa, n)

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


def hooked_caches(flush: Callable[[int, int], None], space_of: Callable[[int], int]) -> tuple[type[Tlb], type[Iommu]]:
    """Classes of TLB and IOMMU that call `flush`(space, page) for each page that an invalidation covers."""

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
            space = EVERYTHING if did is None else did - 1 | DMA
            for page in (EVERYTHING,) if iova is None else range(*_pages(iova, order)):
                flush(space, page)
            super().invalidate_iotlb(did, iova, order)

    return HookedTlb, HookedIommu


def _pages(iova: int, order: int) -> tuple[int, int]:
    """(first page, end) of the aligned range of 2**order pages that an invalidation covers."""
    first = iova >> PAGE_SHIFT & -(1 << order)
    return first, first + (1 << order)
