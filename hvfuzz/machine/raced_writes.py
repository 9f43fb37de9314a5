"""Writes of the host to memory: table entries, links, context entries, ring words, copies to the guest.

A race can be put before one of them. Only while one is armed does memory have hooks: it changes its class, and changes
it back before the race acts. So all other runs pay nothing. The class that memory has by then, which may have hooks of
others, becomes the base of the class with these.

A write is the host's if code outside of the machine makes it while the exit of a vCPU is handled: what hardware writes
of its own accord (accessed flags, DMA, wait descriptors) is not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.race_points import NO_TRIGGER, RacePoints

if TYPE_CHECKING:
    from types import FrameType

    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.physical_memory import PhysicalMemory

HARDWARE: Final = f"{__package__}."


class RacedWrites(RacePoints):
    """Counts the host's writes to one memory while a race is armed for one of them; else `count` means nothing."""

    __slots__ = ("_memory", "_plain", "_raced", "_unhooked", "_vcpus")
    __snapshot_leaf__ = True
    """What arms it resets it; memory and vCPUs are restored as parts of the machine."""

    def __init__(self, memory: PhysicalMemory, vcpus: Sequence[VCpu]) -> None:
        super().__init__()
        self._memory: Final = memory
        self._vcpus: Final = vcpus
        self._plain: type[PhysicalMemory] | None = None
        """The class that memory had before a race was armed; None if none is."""
        self._raced: Final = raced_memory(type(memory), self._written)
        self._unhooked: Final = type(memory)

    def arm(self, trigger: int, action: Callable[[], None]) -> None:
        """Run `action` once, before write number `trigger` of the host from now on."""
        self.reset()
        super().arm(trigger, action)
        self._plain = plain = type(self._memory)
        # Hooks of others are those of an audited run, in which the time of another class does not matter.
        self._memory.__class__ = self._raced if plain is self._unhooked else raced_memory(plain, self._written)

    def disarm(self) -> None:
        """Run no action, and take the hooks from memory."""
        super().disarm()
        if self._plain is not None:
            self._memory.__class__ = self._plain
            self._plain = None

    def _written(self, frame: FrameType) -> None:
        """The code of `frame` is about to write."""
        if self.trigger == NO_TRIGGER or frame.f_globals.get("__name__", "").startswith(HARDWARE):
            return
        if any(vcpu.in_root for vcpu in self._vcpus):
            self.before()


def raced_memory(plain: type[PhysicalMemory], written: Callable[[FrameType], None]) -> type[PhysicalMemory]:
    """A class of memory, otherwise as `plain`, that calls `written`(frame of the caller) before each write.

    `written` may change the class of the memory back, so the methods of `plain` are called by name.
    """
    below: Any = plain  # known only when a race is armed

    class RacedMemory(below):  # type: ignore[misc]
        """See `raced_memory`."""

        __slots__ = ()

        def store64(self, hpa: int, value: int) -> None:
            written(sys._getframe(1))
            plain.store64(self, hpa, value)

        def store(self, hpa: int, size: int, value: int) -> None:
            written(sys._getframe(1))
            plain.store(self, hpa, size, value)

        def write(self, hpa: int, data: Any) -> None:
            written(sys._getframe(1))
            plain.write(self, hpa, data)

        def fill(self, hfn: int, word: int = 0) -> None:
            written(sys._getframe(1))
            plain.fill(self, hfn, word)

        def copy(self, dst: int, src: int, n: int) -> None:
            data = plain.read(self, src, n)
            written(sys._getframe(1))
            plain.write(self, dst, data)

    return RacedMemory
