"""Host context: the hypervisor's own access to memory and to its arrays, checked and counted.

Where C would corrupt memory, Python raises on some wrong indices and silently wraps others; both become `HostFault`
here. Guest errors are values (`Refused`); every exception that leaves host context is a hypervisor bug.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, SupportsIndex, TypeVar, overload

from hvfuzz.abi.boot import HYPERVISOR_HOLE_START
from hvfuzz.hypervisor.core.observer import SILENT, Observer
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.physical_memory import BusError

if TYPE_CHECKING:
    from hvfuzz.machine.machine import Machine

T = TypeVar("T")

_getitem = list.__getitem__  # bound once: domain and table lookups are frequent
_REFUSED_BITS = (1 << 63) | 7  # of an address: negative (Python would wrap around) or misaligned


class HostFault(Exception):
    """The hypervisor accessed memory, or an array element, that does not exist."""


class HostBug(AssertionError):
    """An internal invariant of the hypervisor is broken, such as a checked step that fails."""


class Work:
    """Work done by the hypervisor, in units of one word, array element or whole page accessed.

    `stores` counts writes to `HostArray` elements: while it is constant, so is every array.
    """

    __slots__ = ("stores", "units")

    def __init__(self) -> None:
        self.units = 0
        self.stores = 0


class HostArray(list[T]):
    """A fixed-size array with checked indices: below zero or beyond the end is a `HostFault`; each access is work.

    Searches (`lowest_free`, iteration, slices) run at C speed and count their length as work.
    """

    __slots__ = ("work",)

    def __init__(self, elements: Iterable[T], work: Work) -> None:
        super().__init__(elements)
        self.work = work

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T | list[T]:
        self.work.units += 1
        if type(index) is int and index >= 0:
            try:
                return _getitem(self, index)
            except IndexError:
                pass
        self._refuse(index, "read")
        return super().__getitem__(index)

    @overload
    def __setitem__(self, index: SupportsIndex, value: T) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[T]) -> None: ...
    def __setitem__(self, index: SupportsIndex | slice, value: T | Iterable[T]) -> None:
        self.work.units += 1
        self.work.stores += 1
        if type(index) is not int or not 0 <= index < len(self):
            self._refuse(index, "written")
        super().__setitem__(index, value)  # type: ignore[index, assignment]

    def _refuse(self, index: SupportsIndex | slice, verb: str) -> None:
        if not isinstance(index, slice) and not 0 <= index.__index__() < len(self):
            raise HostFault(f"array of {len(self)} elements {verb} at {index}")

    def lowest_free(self) -> int:
        """The lowest index that holds None, or -1."""
        try:
            index = self.index(None)  # type: ignore[arg-type]
        except ValueError:
            self.work.units += len(self)
            return -1
        self.work.units += index + 1
        return index


class Words(Protocol):
    """Memory as an indexable sequence of 8-byte words."""

    def __getitem__(self, word: int, /) -> int: ...


class HostMemory:
    """Host physical memory, accessed through the hypervisor's mapping of all memory.

    Each access is reported to the observer and counted as work. It raises `HostFault` outside of memory, or if a word
    is misaligned. Nothing is charged to the clock: the cost of an exit covers the handler's own accesses.
    """

    __slots__ = ("machine", "memory", "observer", "on_access", "words", "work")

    def __init__(self, machine: Machine, observer: Observer = SILENT) -> None:
        self.machine = machine
        self.memory = machine.memory
        # The accessor of single words, read once; observers may replace it to hook each access.
        self.words: Words = machine.memory.words
        self.work = Work()
        self.observer = observer
        self.on_access: Callable[[int, int, bool], None] | None = None
        """The observer's `host_access`, or None if it is not overridden."""
        self.watch(observer)

    def watch(self, observer: Observer) -> None:
        """Make `observer` the observer of all accesses."""
        self.observer = observer
        # A no-op call would cost as much as the access itself, several million times a second.
        silent = type(observer).host_access is Observer.host_access
        self.on_access = None if silent else observer.host_access

    def read64(self, hpa: int) -> int:
        """The word at `hpa`, which must be aligned to 8 bytes."""
        self.work.units += 1
        if hpa & _REFUSED_BITS:
            raise HostFault(f"word read at {hpa:#x}")
        if self.on_access is not None:
            self.on_access(hpa, 8, False)
        try:
            return self.words[hpa >> 3]
        except IndexError:
            raise HostFault(f"word read at {hpa:#x}") from None

    def write64(self, hpa: int, value: int) -> None:
        """Set the word at `hpa`, which must be aligned to 8 bytes; `value` is a u64."""
        self.work.units += 1
        if hpa & _REFUSED_BITS:
            raise HostFault(f"word written at {hpa:#x}")
        if self.on_access is not None:
            self.on_access(hpa, 8, True)
        try:
            self.memory.store64(hpa, value)
        except (BusError, ValueError) as error:
            raise HostFault(f"word written at {hpa:#x}: {error}") from None

    def read(self, hpa: int, size: int) -> bytes:
        """`size` bytes from `hpa` on."""
        self._check_range(hpa, size, False)
        return self.memory.read(hpa, size)

    def write(self, hpa: int, data: bytes) -> None:
        """Write `data` from `hpa` on."""
        self._check_range(hpa, len(data), True)
        self.memory.write(hpa, data)

    def fill(self, hfn: int, word: int = 0, frames: int = 1) -> None:
        """Set every word of `frames` frames from `hfn` on to `word`."""
        self._check_range(hfn << PAGE_SHIFT, frames * PAGE_SIZE, True)
        for frame in range(hfn, hfn + frames):
            self.memory.fill(frame, word)

    def direct(self, gva: int) -> int:
        """Host physical address of `gva`, an address in the hypervisor's hole (its mapping of all memory)."""
        return gva - HYPERVISOR_HOLE_START

    def _check_range(self, hpa: int, size: int, write: bool) -> None:
        self.work.units += 1 + (size >> PAGE_SHIFT)  # a whole page counts as much as a word
        if hpa < 0 or size < 0 or hpa + size > self.memory.size:
            raise HostFault(f"{size} bytes {'written' if write else 'read'} at {hpa:#x}")
        if size and self.on_access is not None:
            self.on_access(hpa, size, write)
