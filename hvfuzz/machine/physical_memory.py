"""Host physical memory: bytes, with dirty frames, watched writes, snapshot and restore."""

import gc
import mmap
from struct import Struct
from typing import Any, Final, SupportsIndex

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, SIZE_MASK, U64, WORD, WORDS_PER_PAGE

ZERO_PAGE: Final = bytes(PAGE_SIZE)
_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_FORMATS: Final = {2: _U16, 4: _U32, 8: _U64}


class BusError(Exception):
    """No memory answers at `hpa`. In host context that is a bug of the hypervisor; a guest just reads ones."""

    __snapshot_leaf__ = True

    def __init__(self, hpa: int) -> None:
        super().__init__(hpa)
        self.hpa = hpa

    def __str__(self) -> str:
        return f"no memory at hpa {self.hpa:#x}"


class WatchMap(bytearray):
    """One byte for each frame, non-zero if writes to it are reported. Assign to it by index or slice only.

    Assignments are logged, so that `restore` takes time by the number of changes, not by the size of the memory.
    """

    __slots__ = ("_base", "_changed")

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self._base: bytes = bytes(frames)
        self._changed: list[SupportsIndex | slice] = []

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        bytearray.__setitem__(self, index, value)
        self._changed.append(index)

    def snapshot(self) -> None:
        """Make `restore` return to the present map."""
        self._base = bytes(self)
        self._changed.clear()

    def restore(self) -> None:
        """Undo every assignment since the snapshot."""
        changed = self._changed
        if changed:
            base = self._base
            for index in changed:
                old: Any = base[index]
                bytearray.__setitem__(self, index, old)
            changed.clear()


def _pages(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class PhysicalMemory:
    """`size` bytes in 4 KiB frames. Addresses are Hpas; numbers are little-endian and unsigned.

    All writes must use the methods, which maintain `dirty` and `written`; `data` and `words` are for reading.
    An access that lies partly or wholly outside memory raises BusError and changes nothing.
    """

    __slots__ = ("_base", "_raw", "data", "dirty", "frames", "size", "watched", "words", "written")

    def __init__(self, size: int = 16 << 20) -> None:
        if size <= 0 or size & PAGE_MASK:
            raise ValueError(f"memory size {size} is not a positive multiple of {PAGE_SIZE}")
        self.size: int = size
        self.frames: int = size >> PAGE_SHIFT
        # Anonymous and private: the kernel supplies zero pages on demand, so untouched memory is free, and a forked
        # worker has its own copy.
        try:
            self._raw = _pages(size)
        except OSError:
            # Machines that nobody uses hold memory until the collector finds them, which counts objects, not bytes.
            gc.collect()
            try:
                self._raw = _pages(size)
            except OSError as error:
                error.filename = f"{size >> 10:,} KiB of emulated memory"  # what a message names
                raise
        self.data: memoryview = memoryview(self._raw)
        self.words: memoryview = self.data.cast("Q")
        self.dirty: set[int] = set()
        """Hfns written since the last snapshot, or since construction."""
        self.watched: WatchMap = WatchMap(self.frames)
        """One byte for each frame; if it is non-zero, each word written in the frame is reported in `written`."""
        self.written: list[int] = []
        """Hpa of every 8-byte word written in a watched frame, in order. The watcher clears it."""
        self._base: dict[int, bytes] = {}

    def load64(self, hpa: int) -> int:
        """Read the word at `hpa` (8-byte aligned)."""
        if 0 <= hpa < self.size and not hpa & 7:
            return self.words[hpa >> 3]
        return self.load(hpa, WORD)

    def store64(self, hpa: int, value: int) -> None:
        """Write the word at `hpa` (8-byte aligned); the value must fit 64 bits."""
        if not 0 <= hpa < self.size or hpa & 7:
            self.store(hpa, WORD, value)
            return
        self.words[hpa >> 3] = value
        frame = hpa >> PAGE_SHIFT
        self.dirty.add(frame)
        if self.watched[frame]:
            self.written.append(hpa)

    def load(self, hpa: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes, aligned or not."""
        if hpa < 0 or hpa + size > self.size:
            raise BusError(hpa)
        if size == 1:
            return self.data[hpa]
        value: int = _FORMATS[size].unpack_from(self.data, hpa)[0]
        return value

    def store(self, hpa: int, size: int, value: int) -> None:
        """Write the low `size` (1, 2, 4 or 8) bytes of `value`, aligned or not."""
        if hpa < 0 or hpa + size > self.size:
            raise BusError(hpa)
        if size == 1:
            self.data[hpa] = value & 0xFF
        else:
            _FORMATS[size].pack_into(self.data, hpa, value & SIZE_MASK[size])
        frame = hpa >> PAGE_SHIFT
        self.dirty.add(frame)
        if self.watched[frame] or (hpa & PAGE_MASK) + size > PAGE_SIZE:
            self._touched(hpa, size)

    def read(self, hpa: int, n: int) -> bytes:
        """Read `n` bytes."""
        end = hpa + n
        if hpa < 0 or n < 0 or end > self.size:
            raise BusError(hpa)
        return self._raw[hpa:end]

    def write(self, hpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write the bytes of `data`."""
        n = len(data)
        if hpa < 0 or hpa + n > self.size:
            raise BusError(hpa)
        self._raw[hpa : hpa + n] = data
        frame = hpa >> PAGE_SHIFT
        if n and (hpa & PAGE_MASK) + n <= PAGE_SIZE and not self.watched[frame]:
            self.dirty.add(frame)  # What `_touched` does for nearly every write, without the call.
        else:
            self._touched(hpa, n)

    def fill(self, hfn: int, word: int = 0) -> None:
        """Write `word` (64 bits) to all 512 words of a frame."""
        if not 0 <= hfn < self.frames:
            raise BusError(hfn << PAGE_SHIFT)
        start = hfn << PAGE_SHIFT
        self._raw[start : start + PAGE_SIZE] = _U64.pack(word & U64) * WORDS_PER_PAGE if word else ZERO_PAGE
        self._touched(start, PAGE_SIZE)

    def copy(self, dst: int, src: int, n: int) -> None:
        """Copy `n` bytes; the ranges may overlap (as memmove)."""
        self.write(dst, self.read(src, n))

    def _touched(self, hpa: int, n: int) -> None:
        """Note `n` bytes written at `hpa`, over any number of frames, in `dirty` and `written`."""
        if n <= 0:
            return
        last = hpa + n - 1
        dirty = self.dirty
        watched = self.watched
        for frame in range(hpa >> PAGE_SHIFT, (last >> PAGE_SHIFT) + 1):
            dirty.add(frame)
            if watched[frame]:
                start = frame << PAGE_SHIFT
                first_word = max(hpa & ~7, start)
                self.written.extend(range(first_word, min(last + 1, start + PAGE_SIZE), WORD))

    def snapshot(self) -> None:
        """Make `restore` return to the present contents. Takes time by the number of dirty frames."""
        base = self._base
        raw = self._raw
        for hfn in sorted(self.dirty):
            start = hfn << PAGE_SHIFT
            page = raw[start : start + PAGE_SIZE]
            if page == ZERO_PAGE:
                base.pop(hfn, None)
            else:
                base[hfn] = page
        self.dirty.clear()
        self.written.clear()
        self.watched.snapshot()

    def at_snapshot(self, hfn: int) -> bytes:
        """What the frame held at the last snapshot; zeros before the first one."""
        return self._base.get(hfn, ZERO_PAGE)

    def restore(self) -> None:
        """Return to the snapshot. Takes time by the number of dirty frames, not by the size of the memory."""
        base = self._base
        raw = self._raw
        for hfn in self.dirty:  # The order does not matter.
            start = hfn << PAGE_SHIFT
            raw[start : start + PAGE_SIZE] = base.get(hfn, ZERO_PAGE)
        self.dirty.clear()
        self.written.clear()
        self.watched.restore()
