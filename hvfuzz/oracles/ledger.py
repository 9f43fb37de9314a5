"""The ledger of host accesses: each byte that the hypervisor reads or writes in memory lies in what it announced.

The other oracles believe announcements: what the hypervisor says that it is about to copy, or to touch. This one looks
at what it then does. For that each access of memory is hooked, which is slow: so it is done where a run is looked at
closely, in replays, and while fuzzing in the runs that are audited.

    guest_copy(hpa, size, write)   -> one access within these bytes
    host_access(hpa, size, write)  -> accesses within these bytes, until something else is announced

What the hardware, a guest or an oracle reads and writes while the host works is none of the hypervisor's business:
an access counts for the module of the code that makes it. Not seen are the host's single words, which it reads and
writes past the methods that are hooked here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, WORD
from hvfuzz.machine.memory import PhysicalMemory
from hvfuzz.oracles.calls import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.oracles.oracle import Scene
    from hvfuzz.oracles.reachability import Reachability

NOT_THE_HOST: Final = ("hvfuzz.machine.", "hvfuzz.oracles.", "hvfuzz.guest.", "hvfuzz.targets.")
"""Where code is that is not the hypervisor's."""
KEPT: Final = 2
"""Announcements that are good at a time: a copy between frames announces both its ends."""
NOTHING: Final = (0, 0, False, False)


class Ledger:
    """Hooks the memory of one machine. Its rule is one of the oracle `host_memory`."""

    __snapshot_leaf__ = True
    __slots__ = ("_announced", "_calls", "_hooked", "_memory", "_scene")
    oracle = "host_memory"

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        self._scene: Final = scene
        self._memory: Final = scene.machine.memory
        self._calls: Final = scene.calls
        self._hooked: Final = hooked(self._judge)
        self._announced = [NOTHING] * KEPT
        """(first byte, end, write, good for one access only), the latest last."""

    def hook(self, on: bool) -> None:
        """Look at each access from now on, or at none."""
        self._memory.__class__ = self._hooked if on else PhysicalMemory

    def reset(self) -> None:
        """Nothing is announced."""
        self._announced = [NOTHING] * KEPT

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """Something is announced."""
        self._announce(hpa, size, write, False)

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Likewise."""
        self._announce(hpa, size, write, True)

    def _announce(self, hpa: int, size: int, write: bool, once: bool) -> None:
        self._announced.append((hpa, hpa + size, write, once))
        del self._announced[0]

    def _judge(self, hpa: int, size: int, write: bool) -> None:
        """An access is about to be made, by whoever called the method that called this."""
        if self._calls.exiting == NOBODY or not size:
            return
        if sys._getframe(2).f_globals.get("__name__", "").startswith(NOT_THE_HOST):
            return
        for at, (first, end, way, once) in enumerate(self._announced):
            if way == write and first <= hpa and hpa + size <= end:
                if once:
                    self._announced[at] = NOTHING
                return
        verb = "written" if write else "read"
        text = f"{size} bytes {verb} at {hpa:#x}, which nobody announced, in {self._scene.describe(hpa >> PAGE_SHIFT)}"
        self._scene.report(self.oracle, "unannounced", text)


def hooked(judge: Callable[[int, int, bool], None]) -> type[PhysicalMemory]:
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
