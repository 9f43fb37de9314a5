"""Allocator of host frames: single frames and aligned blocks of 512, lowest address first, scrubbed when freed.

One integer for each 2 MiB of memory is the bit map of its free frames. So the allocator's state is just the set of free
frames, and a freed frame is soon reused, as on a busy host.
"""

from __future__ import annotations

from hvfuzz.hypervisor.core import canaries
from hvfuzz.hypervisor.core.host import HostBug, HostMemory
from hvfuzz.hypervisor.memory.frames import OWNER_HYPERVISOR, OWNER_NONE, FrameState, FrameTable
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT

_FULL = (1 << LARGE_FRAMES) - 1
_INDEX = LARGE_FRAMES - 1
_FREE = FrameState.FREE  # a member of an enumeration takes ten times as long to look up as a global
_HYPERVISOR = FrameState.HYPERVISOR

HEAP_CANARY = 0
"""Offset in a heap page of the canary of this allocation."""
HEAP_NUMBER = 8
"""Offset in a heap page of the number of this allocation."""
HEAP_HEADER = 16
"""Size of a heap page's header, in bytes."""


class Allocator:
    """Allocates and frees frames. Every free frame is zero.

    A call's check picks frames with `choose`, and its steps then `take` exactly those: a check allocates nothing.
    """

    __slots__ = ("available", "blocks", "frames", "heap_allocations", "host", "lowest", "secret")

    def __init__(self, host: HostMemory, frames: FrameTable, secret: int) -> None:
        self.host = host
        self.frames = frames
        self.secret = secret
        self.heap_allocations = 0
        self.available = frames.count
        """Number of free frames."""
        self.lowest = 0
        """No block with a lower index has a free frame."""
        whole, rest = divmod(frames.count, LARGE_FRAMES)
        self.blocks = [_FULL] * whole + ([(1 << rest) - 1] if rest else [])
        """For each 2 MiB of memory, the bit map of its free frames."""

    def choose(self, count: int, *, top_down: bool = False) -> tuple[int, ...] | None:
        """The lowest `count` free frames (with `top_down` the highest); None if fewer are free."""
        if count > self.available or self.denied(count):
            return None
        chosen: list[int] = []
        numbers = range(len(self.blocks))[self.lowest :]
        for number in reversed(numbers) if top_down else numbers:
            bits = self.blocks[number]
            base = number * LARGE_FRAMES
            while bits:
                if len(chosen) == count:
                    return tuple(chosen)
                bit = 1 << bits.bit_length() - 1 if top_down else bits & -bits
                bits ^= bit
                chosen.append(base + bit.bit_length() - 1)
        return tuple(chosen)

    def choose_blocks(self, count: int, *, top_down: bool = False) -> tuple[int, ...] | None:
        """The first frames of the lowest `count` free blocks (with `top_down` the highest); None if fewer are free."""
        whole = [
            number * LARGE_FRAMES for number in range(self.lowest, len(self.blocks)) if self.blocks[number] == _FULL
        ]
        if count > len(whole) or self.denied(count):
            return None
        return tuple(whole[: -count - 1 : -1] if top_down else whole[:count])

    def denied(self, count: int) -> bool:
        """Whether the machine has a request of `count` frames or blocks fail, although so many are free."""
        shortage = self.host.machine.shortage
        return shortage.at >= 0 and shortage.denies(count)

    def take(self, hfn: int, owner: int, state: FrameState) -> None:
        """Allocate the free frame `hfn`."""
        self._claim(hfn, 1)
        self.frames.assign(hfn, owner, state)
        self.host.observer.frame_allocated(hfn, owner, state)

    def take_block(self, hfn: int, owner: int, state: FrameState) -> None:
        """Allocate the free block of 512 frames that starts at `hfn`."""
        self._claim(hfn, LARGE_FRAMES)
        self.frames.assign(hfn, owner, state, LARGE_FRAMES)
        self.host.observer.block_allocated(hfn, owner, state)

    def alloc_page(self, owner: int, state: FrameState) -> int:
        """Allocate a zeroed frame; returns its number, or -1 if none is free."""
        chosen = self.choose(1)
        if chosen is None:
            return -1
        self.take(chosen[0], owner, state)
        return chosen[0]

    def free_page(self, hfn: int) -> None:
        """Scrub and free a frame that is no longer referenced."""
        self.scrub(hfn, 1)
        self._release(hfn, 1)

    def free_block(self, hfn: int) -> None:
        """Scrub and free the 512 frames from `hfn` on."""
        self.scrub(hfn, LARGE_FRAMES)
        self._release(hfn, LARGE_FRAMES)

    def alloc_heap_page(self) -> int:
        """Allocate a page for the hypervisor's own data, with a header of HEAP_HEADER bytes; -1 if none is free."""
        chosen = self.choose(1)
        if chosen is None:
            return -1
        self.take_heap_page(chosen[0])
        return chosen[0]

    def take_heap_page(self, hfn: int) -> None:
        """Allocate the free frame `hfn` as `alloc_heap_page` does."""
        number = self.heap_allocations
        self.heap_allocations = number + 1
        self._claim(hfn, 1)
        self.frames.assign(hfn, OWNER_HYPERVISOR, _HYPERVISOR)
        # Write the header before the notification: observers read the canary from it.
        self.host.write64((hfn << PAGE_SHIFT) + HEAP_CANARY, self.heap_canary(number))
        self.host.write64((hfn << PAGE_SHIFT) + HEAP_NUMBER, number)
        self.host.observer.frame_allocated(hfn, OWNER_HYPERVISOR, _HYPERVISOR)

    def free_heap_page(self, hfn: int) -> None:
        """Free a page of `alloc_heap_page`; scrubbing erases its canary, too."""
        self.scrub(hfn, 1)
        self._release(hfn, 1)

    def heap_canary(self, number: int) -> int:
        """The canary of heap allocation `number`."""
        return canaries.canary(self.secret, canaries.HEAP, number)

    def scrub(self, hfn: int, frames: int) -> None:
        """Zero `frames` frames from `hfn` on, before they are freed."""
        self.host.fill(hfn, 0, frames)

    def _claim(self, hfn: int, frames: int) -> None:
        bits = (1 << frames) - 1 << (hfn & _INDEX)
        blocks = self.blocks
        if not 0 <= hfn < self.frames.count or blocks[hfn >> 9] & bits != bits:
            raise HostBug(f"frame {hfn:#x} is not free")
        blocks[hfn >> 9] ^= bits
        self.available -= frames
        while self.lowest < len(blocks) and not blocks[self.lowest]:
            self.lowest += 1

    def _release(self, hfn: int, frames: int) -> None:
        bits = (1 << frames) - 1 << (hfn & _INDEX)
        number = hfn >> 9
        if not 0 <= hfn < self.frames.count or self.blocks[number] & bits:
            raise HostBug(f"frame {hfn:#x} is freed twice")
        self.frames.assign(hfn, OWNER_NONE, _FREE, frames)
        self.blocks[number] |= bits
        self.available += frames
        self.lowest = min(self.lowest, number)
        observer = self.host.observer
        if frames == LARGE_FRAMES:
            observer.block_freed(hfn)
        else:
            for frame in range(hfn, hfn + frames):
                observer.frame_freed(frame)
