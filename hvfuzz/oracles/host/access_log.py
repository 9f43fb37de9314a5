"""The ledger of host accesses: each byte that the hypervisor reads or writes in memory lies in what it announced.

The other oracles believe announcements: what the hypervisor says that it is about to copy, or to touch. This one looks
at what it then does. For that each access of memory is hooked, which is slow: so it is done where a run is looked at
closely, in replays, and while fuzzing in the runs that are audited.

    guest_copy(hpa, size, write)   -> one access within these bytes
    host_access(hpa, size, write)  -> accesses within these bytes, until something else is announced

What the hardware, a guest or an oracle reads and writes while the host works is none of the hypervisor's business:
an access counts for the module of the code that makes it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.memory import PhysicalMemory
from hvfuzz.oracles.host.hooked_hardware import HookedWords, hooked_memory
from hvfuzz.oracles.scene.call_stack import NO_DOMAIN

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

NOT_THE_HOST: Final = ("hvfuzz.machine.", "hvfuzz.oracles.", "hvfuzz.guest.", "hvfuzz.targets.")
"""Where code is that is not the hypervisor's."""
KEPT: Final = 2
"""Announcements that are good at a time: a copy between frames announces both its ends."""
NOTHING: Final = (0, 0, False, False)


class AccessLog:
    """Hooks the memory of one machine. Its rule is one of the oracle `host_memory`."""

    __snapshot_leaf__ = True
    __slots__ = ("_announced", "_calls", "_hooked", "_memory", "_scene")
    oracle = "host_memory"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._memory: Final = scene.machine.memory
        self._calls: Final = scene.calls
        self._hooked: Final = hooked_memory(self._judge)
        self._announced = [NOTHING] * KEPT
        """(first byte, end, write, good for one access only), the latest last."""

    def hook(self, on: bool) -> None:
        """Look at each access from now on, or at none."""
        memory, host = self._memory, self._scene.hypervisor.host
        memory.__class__ = self._hooked if on else PhysicalMemory
        # Single words the host reads and writes by what it has bound.
        host.words = HookedWords(memory.words, self._judge) if on else memory.words
        host.store64 = memory.store64

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
        if self._calls.exiting == NO_DOMAIN or not size:
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
