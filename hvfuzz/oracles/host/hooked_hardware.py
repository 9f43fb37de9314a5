"""Hardware that is looked at: memory that asks before each access, caches that tell of each flush.

Nothing here judges: a fault that these classes pass on is that of whoever called them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, WORD
from hvfuzz.machine.memory import PhysicalMemory
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.vtd.unit import Iommu
from hvfuzz.oracles.shadow.changes import DMA

if TYPE_CHECKING:
    from collections.abc import Callable

WORD_SHIFT: Final = 3
EVERYTHING: Final = -1
"""In place of a space, or of a page: all of them."""


class HookedWords:
    """Words of memory to read, each of which asks `judge`(hpa, size, write) before."""

    __slots__ = ("_judge", "_words")

    def __init__(self, words: memoryview, judge: Callable[[int, int, bool], None]) -> None:
        self._words: Final = words
        self._judge: Final = judge

    def __getitem__(self, word: int) -> int:
        self._judge(word << WORD_SHIFT, WORD, False)
        value: int = self._words[word]
        return value


def hooked_memory(judge: Callable[[int, int, bool], None]) -> type[PhysicalMemory]:
    """A class of memory that asks `judge`(hpa, size, write) before each access."""

    class Hooked(PhysicalMemory):
        """Memory that is looked at."""

        __slots__ = ()

        def load64(self, hpa: int) -> int:
            judge(hpa, WORD, False)
            return super().load64(hpa)

        def load(self, hpa: int, size: int) -> int:
            judge(hpa, size, False)
            return super().load(hpa, size)

        def read(self, hpa: int, n: int) -> bytes:
            judge(hpa, n, False)
            return super().read(hpa, n)

        def store64(self, hpa: int, value: int) -> None:
            judge(hpa, WORD, True)
            super().store64(hpa, value)

        def store(self, hpa: int, size: int, value: int) -> None:
            judge(hpa, size, True)
            super().store(hpa, size, value)

        def write(self, hpa: int, data: Any) -> None:
            judge(hpa, len(data), True)
            super().write(hpa, data)

        def fill(self, hfn: int, word: int = 0) -> None:
            judge(hfn << PAGE_SHIFT, PAGE_SIZE, True)
            super().fill(hfn, word)

        def copy(self, dst: int, src: int, n: int) -> None:
            judge(src, n, False)
            judge(dst, n, True)
            super().copy(dst, src, n)

    return Hooked


def hooked_caches(flush: Callable[[int, int], None], space_of: Callable[[int], int]) -> tuple[type[Tlb], type[Iommu]]:
    """Classes of caches that tell `flush`(space, page) of each invalidation."""

    class HookedTlb(Tlb):
        """A TLB that is looked at."""

        __slots__ = ()

        def invept(self, eptp: int | None) -> None:
            flush(EVERYTHING if eptp is None else space_of(eptp & EP4TA), EVERYTHING)
            super().invept(eptp)

    class HookedIommu(Iommu):
        """An IOMMU that is looked at."""

        __slots__ = ()

        def invalidate_iotlb(self, did: int | None = None, iova: int | None = None, order: int = 0) -> None:
            space = EVERYTHING if did is None else did - 1 | DMA
            for page in (EVERYTHING,) if iova is None else range(*_pages(iova, order)):
                flush(space, page)
            super().invalidate_iotlb(did, iova, order)

    return HookedTlb, HookedIommu


def _pages(iova: int, order: int) -> tuple[int, int]:
    """The aligned range of pages that an invalidation covers."""
    first = iova >> PAGE_SHIFT & -(1 << order)
    return first, first + (1 << order)
